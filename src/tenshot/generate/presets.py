"""The way to draw that `tenshot tune` found for a model, taken where nobody says another."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from tenshot import preset
from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.option_text import command
from tenshot.generate.options import GenerateOptions
from tenshot.preset import Certified, Preset

NAMES = frozenset(field.name for field in fields(Preset))
BESIDE = ("lora", "embedding", "init_image", "controlnet", "hires_scale")  # what no certificate was taken with


def applied(options: GenerateOptions, place: Path, events: Events) -> GenerateOptions:
    """The options with those of the preset. place: of the model. Whoever names one of them, draws as he says.

    Raises Refusal where a preset is asked for that there is none of.
    """
    asked = "preset" in options.model_fields_set
    if options.preset is None or options.model_fields_set & NAMES:
        return options
    presets = preset.read(place)
    found = presets.presets.get(options.preset) if presets else None
    if found is None and asked:
        do = command("tune", options.model, "--certificate", options.preset)
        fits = ", ".join(presets.presets) if presets else "none"
        raise Refusal(Fault("--preset", f"{options.preset}: {options.model} has none that fits its weights", fits, do))
    if found is None:
        return options
    if not asked and (beyond := _beyond(options, found)):
        events.say(f"the model's preset is not taken: it is not certified with {beyond}; --preset takes it")
        return options
    events.say(f"preset {options.preset}: {found.preset} ({found.proof})")
    return options.model_copy(update=vars(found.preset))


def _beyond(options: GenerateOptions, found: Certified) -> str:
    """What of the drawing its certificate does not tell of, in words; empty where it does of all."""
    if named := [f"--{name}" for name in BESIDE if getattr(options, name)]:
        return " and ".join(named)
    if options.tags:
        return "LoRAs in the prompt"
    height, width = found.size
    same = options.height in (None, height) and options.width in (None, width)
    return "" if same else f"other sizes than {width}x{height}"
