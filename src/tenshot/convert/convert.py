"""`tenshot convert`: what the source is decides what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from tenshot import next_commands
from tenshot.adapters import adapter_files, embedding, parsing
from tenshot.convert import adapters, nets
from tenshot.convert.options import ConvertOptions
from tenshot.core import device, hub_names
from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.core.events import Events
from tenshot.core.option_text import command
from tenshot.core.results import Written
from tenshot.export import compatibility, webui_config
from tenshot.export.ui_folders import FOLDERS, Shown, accompany, companions, phrase
from tenshot.io import destinations
from tenshot.io.images import open_picture
from tenshot.io.tensor_files import Container
from tenshot.model import checkpoint, hub, model
from tenshot.model.single_nets import Read
from tenshot.model.single_nets import of_file as net_of_file
from tenshot.model.single_nets import read as read_net


def convert(options: ConvertOptions, events: Events) -> Written:
    """Raises Refusal with nothing written."""
    options = hub.fetched(options, events)
    refuse_if(options.faults())
    refuse_if(_not_to_bake(options))
    if options.preview:
        open_picture(options.preview)  # what is no picture is refused now, not beside a finished file
    source = options.src if adapter_files.files(options.src) else embedding.file_in(options.src)
    dtype = options.torch_dtype
    if str(source) == "pocket" or (source / "model_index.json").is_file():
        found = checkpoint.read(model.find(str(source)), vae=options.vae)
        name = hub_names.called(found.place)
        return _whole(found, options, _target(options, "checkpoint", f"{name}.safetensors"), events)
    if source.is_dir() and not adapter_files.files(source):
        return _net(read_net(source, options.config), options, f"{hub_names.called(source)}.safetensors", events)
    return _of_file(adapter_files.opened(source), options, dtype, events)


def _not_to_bake(options: ConvertOptions) -> Iterator[Fault]:
    """What is wrong with --bake_dora: it is about LoRAs."""
    there = options.bake_dora and (options.src.is_file() or adapter_files.files(options.src))
    if options.bake_dora and not (there and parsing.is_lora(adapter_files.opened(options.src).tensors)):
        yield Fault("--bake_dora", f"{options.src} is no LoRA", "a DoRA", "leave it out")


def _of_file(opened: Container, options: ConvertOptions, dtype: torch.dtype | None, events: Events) -> Written:
    stem = opened.place.stem
    if parsing.is_lora(opened.tensors):
        target = _target(options, "lora", f"{stem}-converted.safetensors")
        return _told(options, adapters.convert_lora(opened, options, target, dtype, events), target, events)
    if embedding.is_embedding(opened):
        unnamed = stem.startswith(adapter_files.WORDS["text_encoder"])  # as diffusers' scripts call every word's file
        usual = destinations.file_name(embedding.of(opened)[0]) if unnamed else f"{stem}.safetensors"
        target = _target(options, "embedding", usual)
        return _told(options, adapters.convert_embedding(opened, options, target, dtype), target, events)
    if family := checkpoint.family_of(opened, options.vae, options.config):
        found = checkpoint.of_file(opened, family, options.config, options.ema, options.vae)
        return _whole(found, options, _target(options, "checkpoint", stem), events)
    return _net(net_of_file(opened, options.config), options, stem, events)


def _net(found: Read, options: ConvertOptions, usual: str, events: Events) -> Written:
    """A net alone: a file becomes a folder, and a folder or diffusers' own names a file, unless DST says otherwise."""
    target = _target(options, found.net.place, usual)
    file = target.suffix in (".safetensors", ".ckpt")
    return _told(options, nets.write(found, options.torch_dtype, target, events, file), target, events)


def _whole(found: checkpoint.LazyModel, options: ConvertOptions, target: Path, events: Events) -> Written:
    found = found.cast(options.torch_dtype)
    if options.use_safetensors or options.to:
        made = checkpoint.write_file(found, target, events, about=phrase(options.trigger))
    else:
        made = checkpoint.write(found, target, events)
    ledger = {**found.ledger.told(), "used": made.used}
    told: Written = {
        "what": "checkpoint",
        "family": found.family.title,
        "written": str(target),
        "ledger": ledger,
        "peak_memory_bytes": device.max_memory_allocated(),
    }
    if options.place and options.place.program == "webui":
        webui_config.write(found, target)
    return _told(options, told, target, events)


def _told(options: ConvertOptions, told: Written, target: Path, events: Events) -> Written:
    """What was done and what one does next; in a user interface's folder with its companions."""
    what = told["what"]
    known = what in next_commands.SHARED
    prompt = options.trigger or told.get("word") or next_commands.TEXT
    after = [*([next_commands.draw(what, target, prompt)] if known else []), command("inspect", target)]
    if not (place := options.place):
        return {**told, "next": [*after, *([next_commands.hand_over(target)] if known else [])]}
    if known and (why := compatibility.mistaken_at(target, place.program)):
        events.say(why)
    shown = Shown(options.trigger, options.preview)
    return {**told, **accompany(place, target, shown, told.get("family", "")), "next": after}


def _target(options: ConvertOptions, kind: str, usual: str) -> Path:
    """Where the result goes. Raises Refusal where something is there already."""
    source = usual if kind == "embedding" else hub_names.called(options.src)
    name = options.name or source.removesuffix(Path(source).suffix)
    place = options.place
    if place and kind not in FOLDERS[place.program]:
        do = "leave --to out, and name the result: tenshot convert SRC DST"
        raise Refusal(Fault("--to", f"{place.program} has no folder for a {kind} alone", "a whole model", do))
    target = place.file(kind, name) if place else options.dst or _beside(options.src) / usual
    option = "--name" if place else "dst"
    refuse_if(destinations.faults(option, target, options.overwrite, options.sources))
    if place and not options.overwrite:
        beside = [each for each in companions(target) if each.exists()]
        refuse_if(Fault(option, f"{each} exists", "a new name", "--overwrite replaces it") for each in beside)
    return target


def _beside(source: Path) -> Path:
    """The folder of a source; here, where that is the hub's cache."""
    return Path() if hub_names.of_path(source) else source.resolve().parent
