"""Which programs load a file, and why others do not, or not as it was meant."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tenshot import __version__
from tenshot.adapters import base_model, embedding, lora_keys, parsing
from tenshot.adapters.weight_delta import Addition, Difference, Layer
from tenshot.core.errors import Refusal
from tenshot.core.results import Loads
from tenshot.families import conversion, registry
from tenshot.families.base import Family
from tenshot.io import tensor_files
from tenshot.io.tensor_files import Container
from tenshot.model import checkpoint

WEBUI, COMFY, DIFFUSERS, TENSHOT = "AUTOMATIC1111 and Forge", "ComfyUI", "diffusers", "tenshot"
KOHYA = "kohya's sd-scripts"
ALL = (WEBUI, COMFY, DIFFUSERS, TENSHOT)
#: Which versions all that is said here is of, and how it is known.
KNOWN = {
    WEBUI: "AUTOMATIC1111 1.9.4: how it names layers was run, all else read; Forge: read",
    COMFY: "0.3.64: checkpoints, LoRAs and embeddings were run, samplers read",
    DIFFUSERS: "0.42: run",
    KOHYA: "of February 2026: read",
    TENSHOT: __version__,
}
WORDS = {  # how wide the vectors of learned words are
    family.name: [family.released[part]["hidden_size"] for part in family.encoders] for family in registry.FAMILIES
}
NEWER = (".format_version", ".storage_alignment")  # members of torch's zip files since 2.9
HIDDEN = "takes it for one of SD1 and hides it: tenshot convert FILE --form kohya says what it is"
NAMED = "tenshot convert FILE gives its layers the names that it knows"

#: Layers by the names that ComfyUI knows them by, apart from kohya's: those of diffusers' pipelines until 2023.
_COMFY = re.compile(
    r"(lora_unet|lycoris)_.+|lora_te[12]?_text_model_encoder_layers_.+|lora_te2_text_projection|diffusion_model\..+"
    r"|(unet\.)?(?!base_model|text_encoder)(?:(?!\.to_).)+|(unet\.)?.+\.processor\.to_([qkv]|out)"
    r"|lora_transformer_.+|(transformer|base_model\.model\.transformer_blocks)\..+"
    r"|text_encoder(_2)?\.text_model\.encoder\.layers\..+"
)
_WEBUI = re.compile(r"lora_(unet|te[12]?)_.+")


def told(reasons: Mapping[str, str]) -> Loads:
    """reasons: program -> why it does not load the file, or not as it was meant."""
    found: Loads = {"loads_in": [program for program in ALL if program not in reasons]}
    return found | ({"not_in": dict(reasons)} if reasons else {}) | {"known_of": KNOWN}


def of_checkpoint(source: Container, family: Family) -> Loads:
    reasons = dict(_pickle(source))
    if source.kind == "pickle":
        return told(reasons) | {"not_looked_at": "the shapes and what it predicts: a pickle is not opened here"}
    denoiser = conversion.configured(family, source.tensors, {})[family.denoiser]
    widths, text = family.widths(denoiser), denoiser[family.text_width]
    if widths not in family.known_widths or text != family.released[family.denoiser][family.text_width]:
        found = f"blocks {', '.join(map(str, widths))} wide, text {text}: no {family.title} that was ever released"
        reasons |= {WEBUI: found, COMFY: found, DIFFUSERS: "needs config=FOLDER, or: tenshot convert FILE FOLDER"}
    if family.webui.lacks:
        reasons.setdefault(WEBUI, family.webui.lacks)
    predicts = checkpoint.prediction(source, family)
    if predicts == "v_prediction" and not family.webui.tells_v and not source.place.with_suffix(".yaml").is_file():
        reasons.setdefault(WEBUI, "takes it for one that predicts noise: tenshot convert FILE --to webui DIR")
    taken = comfy_takes(source, family, denoiser["in_channels"])
    if taken != predicts:
        reasons.setdefault(COMFY, mistaken(source, family, predicts, taken))
    spread = checkpoint.spread(source) if family.v_sign == "norm" else None
    return told(reasons) | {"comfyui_takes_it_for": taken} | ({"spread": spread} if spread is not None else {})


def comfy_takes(source: Container, family: Family, channels: int) -> str:
    """What ComfyUI believes that a checkpoint predicts: of each family it looks at something else."""
    if len(family.process.predictions()) == 1:
        return family.process.predictions()[0]
    if family.v_sign == "tensor":
        return "v_prediction" if "v_pred" in source.tensors else "epsilon"
    spread = checkpoint.spread(source) if family.v_sign == "norm" and channels == 4 else None
    return "v_prediction" if spread is not None and spread > checkpoint.V_PREDICTION else "epsilon"


def mistaken_at(target: Path, program: str) -> str | None:
    """What that user interface makes of a result that was put there, where that is not what was meant."""
    name, source = COMFY if program == "comfyui" else WEBUI, tensor_files.opened(target)
    if family := conversion.recognised(source.tensors, registry.FAMILIES):
        found = of_checkpoint(source, family)
    elif parsing.is_lora(source.tensors):
        found = of_lora(source, parsing.layers(source), None)
    else:
        found = of_embedding(source)
    why = found.get("not_in", {}).get(name)
    return f"{name}: {why}" if why else None


def mistaken(source: Container, family: Family, predicts: str, taken: str) -> str:
    """Why ComfyUI takes a checkpoint for what it is not, and what helps."""
    spread = checkpoint.spread(source) if family.v_sign == "norm" else None
    by = "has no such norm" if spread is None else f"has {spread:.3f}"
    why = {
        "nothing": f"every {family.webui.version} it does",
        "norm": f"above {checkpoint.V_PREDICTION} the deviation of {checkpoint.NORM} means v_prediction, and this {by}",
        "tensor": "there is no tensor v_pred, which tenshot convert FILE FOLDER and back writes",
    }[family.v_sign]
    node = f"put the node ModelSamplingDiscrete ({'v_prediction' if taken == 'epsilon' else 'eps'}) behind the loader"
    yaml = "load it with config, by the yaml that tenshot convert FILE --to webui DIR writes, in models/configs"
    return f"takes it for {taken}, it predicts {predicts}: {why}; {node}, or {yaml}"


def of_lora(source: Container, found: Mapping[Layer, Addition], family: Family | None) -> Loads:
    """found: its layers, where they can be read without unpickling."""
    reasons: dict[str, str] = dict(_pickle(source))
    for program, known in ((WEBUI, _WEBUI), (COMFY, _COMFY)):
        if lost := _lost(source, known):
            reasons.setdefault(program, lost)
    if family and source.metadata and not source.metadata.get(base_model.BASE, "").startswith(family.webui.lists):
        reasons.setdefault(WEBUI, HIDDEN)
    released = (widths for family in registry.FAMILIES for widths in family.known_widths)
    queries = {each.shape[0] for (_, layer), each in found.items() if layer.endswith(".to_q")}
    if strange := sorted(queries.difference(*released)):
        wide = f"its layers are {', '.join(map(str, strange))} wide: of no model that was ever released"
        reasons |= dict.fromkeys((WEBUI, COMFY), wide)
    if source.kind != "pickle" and (broken := parsing.broken(source)):
        reasons |= dict.fromkeys(ALL, f"NaN or infinite numbers in {len(broken)} tensors: {', '.join(broken[:3])}")
    if parsing.kinds(source.tensors).keys() != {"LoRA"}:
        reasons[DIFFUSERS] = "reads no LoHa and no LoKr: tenshot resize makes a LoRA of it"
    return told(reasons | {program: why for program, why in decomposed(source, found) if program not in reasons})


def without_module(layers: Iterable[Layer]) -> list[str]:
    """Those that kohya's scripts leave out in silence: they make modules in blocks and text layers only."""
    inside: dict[str, str] = {}
    for family in registry.FAMILIES:
        inside[family.denoiser] = "|".join(filter(None, (inside.get(family.denoiser), family.kohya.modules)))
    return sorted(
        f"{part}.{layer}" for part, layer in layers if not re.fullmatch(inside.get(part, r"encoder\.layers\..+"), layer)
    )


def _lost(source: Container, known: re.Pattern[str]) -> str:
    """What a program makes of the layers' names: "" where it knows all of them."""
    layers: dict[Layer, bool] = {}
    for name in source.tensors:
        place = lora_keys.parse(name)
        if place and place.kind != "alpha":
            layers[place.part, place.layer] = bool(known.fullmatch(_FACTOR.sub("", name)))
    parts = dict.fromkeys(part for part, _ in layers)
    counts = {part: [ok for (where, _), ok in layers.items() if where == part] for part in parts}
    if all(layers.values()):
        return ""
    if not any(layers.values()):
        return f"would load it without effect: {NAMED}"
    shares = ", ".join(f"{sum(each)} of {len(each)} layers of {part}" for part, each in counts.items())
    return f"would apply {shares}, and leave the others out in silence: {NAMED}"


_FACTOR = re.compile(
    r"[._]lora(_linear_layer)?[._](up|down|[AB]|mid)(\.\w+)?(\.weight)?$"
    r"|\.(lora_magnitude_vector|dora_scale|hada_|lokr_).*"
)


def decomposed(source: Container, found: Mapping[Layer, Addition]) -> Iterator[tuple[str, str]]:
    """What programs make of DoRA's magnitudes, which stand for rows here, or, as LyCORIS has them, for columns."""
    differences = [each for each in found.values() if isinstance(each, Difference)]
    magnitudes = [each.magnitude for each in differences if each.magnitude is not None]
    if not magnitudes:
        return
    bake = "tenshot convert FILE --bake_dora MODEL makes a LoRA without magnitudes, tenshot merge a model"
    if any(each.ndim > 1 and each.shape[0] == 1 for each in magnitudes):
        yield DIFFUSERS, f"leaves out DoRA's magnitudes, and knows none of columns: {bake}"
        return
    if any(name.endswith("dora_scale") for name in source.tensors):
        yield DIFFUSERS, f"leaves out magnitudes called dora_scale: tenshot convert FILE --form diffusers; {bake}"
    yield WEBUI, f"AUTOMATIC1111 takes DoRA's magnitudes for those of columns, Forge divides by the norms of W: {bake}"
    yield COMFY, f"divides DoRA's magnitudes by the norms of W, not of W + dW; interpolates at other strengths: {bake}"


def of_embedding(source: Container) -> Loads:
    reasons = dict(_pickle(source))
    if source.kind == "pickle":
        return told(reasons)
    names = {*source.tensors}
    if names == {*embedding.TWO.values()}:
        reasons[DIFFUSERS] = "wants a file for each text encoder: tenshot convert FILE FOLDER --form diffusers"
    elif names == {embedding.ONE}:
        reasons[DIFFUSERS] = f"takes {embedding.ONE} for the word, unless token= says it: tenshot convert FILE NEW"
    widths = {lazy.shape[-1] for lazy in source.tensors.values()}
    if not widths <= {wide for family in WORDS.values() for wide in family}:
        reasons |= dict.fromkeys((WEBUI, COMFY), f"{', '.join(map(str, widths))} wide: of no model ever released")
    try:
        _, rows = embedding.of(source)
    except Refusal as refusal:
        return told(dict.fromkeys(ALL, refusal.faults[0].found))
    if len(rows) > len(names):
        pair = "one of diffusers' two files of a word: tenshot convert FILE NEW joins them"
        reasons |= dict.fromkeys((WEBUI, COMFY), pair)
    elif [*rows] == ["text_encoder_2"]:
        half = "half of a word: the file of the first text encoder is not beside it"
        reasons = dict.fromkeys(ALL, half)
    return told(reasons)


def _pickle(source: Container) -> Iterable[tuple[str, str]]:
    """AUTOMATIC1111 opens pickles with a reader of its own, which knows torch's older files only."""
    if source.kind == "pickle" and zipfile.is_zipfile(source.place):
        with zipfile.ZipFile(source.place) as archive:
            if any(name.endswith(NEWER) for name in archive.namelist()):
                yield WEBUI, "its reader of pickles refuses torch's newer zip files: tenshot convert FILE"
