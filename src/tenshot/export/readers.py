"""Which programs load a file, and why others do not: AUTOMATIC1111 1.9.4, ComfyUI 0.3.64, diffusers 0.42."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

from tenshot.adapters import factors, reading
from tenshot.adapters.addition import Addition, Layer
from tenshot.families import dialects
from tenshot.families.family import Family
from tenshot.files.containers import Container

WEBUI, COMFY, DIFFUSERS, TENSHOT = "AUTOMATIC1111 and Forge", "ComfyUI", "diffusers", "tenshot"
ALL = (WEBUI, COMFY, DIFFUSERS, TENSHOT)
RELEASED = {"sd1": (320, 640, 1280, 1280), "sd2": (320, 640, 1280, 1280), "sdxl": (320, 640, 1280)}
TEXT = {"sd1": 768, "sd2": 1024, "sdxl": 2048}
BASE = "ss_base_model_version"
NEWER = (".format_version", ".storage_alignment")  # members of torch's zip files since 2.9


def told(reasons: Mapping[str, str]) -> dict[str, Any]:
    """reasons: program -> why it does not load the file."""
    found: dict[str, Any] = {"loads in": [program for program in ALL if program not in reasons]}
    return found | ({"not in": dict(reasons)} if reasons else {})


def of_checkpoint(source: Container, family: Family) -> dict[str, Any]:
    reasons = dict(_pickle(source))
    if source.kind != "pickle":
        unet = dialects.configured(family, source.tensors, {})["unet"]
        widths, text = tuple(unet["block_out_channels"]), unet["cross_attention_dim"]
        if (widths, text) != (RELEASED[family.name], TEXT[family.name]):
            found = f"blocks {', '.join(map(str, widths))} wide, text {text}: no {family.title} that was ever released"
            reasons |= {WEBUI: found, COMFY: found, DIFFUSERS: "needs config=FOLDER, or: tenshot convert FILE FOLDER"}
    if family.name == "sdxl" and "v_pred" in source.tensors and not source.place.with_suffix(".yaml").is_file():
        reasons.setdefault(WEBUI, "takes it for one that predicts noise: tenshot convert FILE --to webui DIR")
    unseen = {"not looked at": "the shapes: a pickle is not opened here"} if source.kind == "pickle" else {}
    return told(reasons) | unseen


def of_lora(source: Container, found: Mapping[Layer, Addition]) -> dict[str, Any]:
    """found: its layers, where they can be read without unpickling."""
    reasons = dict(_pickle(source))
    kohya = any(name.startswith(("lora_unet_", "lora_te")) for name in source.tensors)
    if not kohya:
        reasons |= dict.fromkeys((WEBUI, COMFY), "would load it without effect: tenshot convert FILE names it for them")
    elif source.about and factors.is_sdxl(found) and not source.about.get(BASE, "").startswith("sdxl_"):
        reasons[WEBUI] = "takes it for one of SD1 and hides it: tenshot convert FILE --form kohya says what it is"
    if strange := sorted(_widths(found).difference(*RELEASED.values())):
        wide = f"its layers are {', '.join(map(str, strange))} wide: of no model that was ever released"
        reasons |= dict.fromkeys((WEBUI, COMFY), wide)
    if source.kind != "pickle" and (names := reading.broken(source)):
        reasons |= dict.fromkeys(ALL, f"NaN or infinite numbers in {len(names)} tensors: {', '.join(names[:3])}")
    if reading.kinds(source.tensors).keys() != {"LoRA"}:
        reasons[DIFFUSERS] = "reads no LoHa and no LoKr: tenshot resize makes a LoRA of it"
    return told(reasons)


def _widths(found: Mapping[Layer, Addition]) -> set[int]:
    """How wide the layers of the UNet are that make queries."""
    return {each.shape[0] for (part, layer), each in found.items() if part == "unet" and layer.endswith(".to_q")}


def of_embedding(source: Container) -> dict[str, Any]:
    reasons = dict(_pickle(source))
    names = {*source.tensors}
    if source.kind == "safetensors" and len(names) > 1 and names != {"clip_l", "clip_g"}:
        reasons[WEBUI] = f"knows one tensor, or clip_l and clip_g; this has {', '.join(sorted(names)[:3])}"
    return told(reasons)


def _pickle(source: Container) -> Iterable[tuple[str, str]]:
    """AUTOMATIC1111 opens pickles with a reader of its own, which knows torch's older files only."""
    if source.kind == "pickle" and zipfile.is_zipfile(source.place):
        with zipfile.ZipFile(source.place) as archive:
            if any(name.endswith(NEWER) for name in archive.namelist()):
                yield WEBUI, "its reader of pickles refuses torch's newer zip files: tenshot convert FILE"
