"""Model folders as diffusers' pipelines have them: where they are, and how their parts are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import diffusers
import transformers

from tenshot.core import hub_names
from tenshot.core.errors import Fault, Refusal
from tenshot.core.shipped import ASSETS
from tenshot.families import text_model
from tenshot.families.base import ZEROS, Family
from tenshot.families.components import Component
from tenshot.io import tensors, text_files

DTYPE = "float32"  # in which transformers opens text encoders, however they are stored: in float16 none can learn
ONE_FILE = "1TB"  # the largest shard: other programs look for a part's weights in one file


def find(name: str) -> Path:
    """The folder that `name` means: "pocket", or a folder. Raises Refusal where there is none."""
    place = ASSETS / name if name == "pocket" else Path(name)
    if not place.is_dir():
        found = "a file" if place.is_file() else "no such model"
        fits = "pocket (ships with Tenshot), a folder with model_index.json, or a .safetensors or .ckpt file"
        raise Refusal(Fault(f"model {name}", found, fits, f"correct the path, or name {hub_names.FORMS}"))
    return place


def save_part(part: Component, folder: Path) -> None:
    """Save a part so that programs with older versions of transformers find everything under the names they know."""
    if isinstance(part, transformers.PreTrainedTokenizerBase):
        part.save_pretrained(folder)
        if isinstance(part, transformers.CLIPTokenizer):
            part.backend_tokenizer.model.save(str(folder))  # vocab.json and merges.txt
        return
    part.save_pretrained(folder, max_shard_size=ONE_FILE)
    config = text_files.read_object(folder / "config.json")
    config.pop("_name_or_path", None)  # a path of this machine
    if isinstance(part, transformers.PreTrainedModel):
        config["dtype"] = DTYPE
    tensors.write_json(folder / "config.json", config)
    if isinstance(part, transformers.CLIPTextModel):
        file = folder / "model.safetensors"
        named = {text_model.stored(name): tensor for name, tensor in tensors.read(file).items()}
        tensors.write(file, named, {"format": "pt"})


def index(
    family: Family, schedule: Mapping[str, object], zeros: bool | None = None, channels: int = 4
) -> dict[str, object]:
    """What model_index.json says. zeros: no negative prompt means zeros, in families that know the difference.

    channels: that the denoiser takes, which tell inpainting and editing models.
    """
    parts = {name: [kind.__module__.split(".")[0], kind.__name__] for name, kind in family.parts.items()}
    scheduler = ["diffusers", schedule.get("_class_name", "PNDMScheduler")]
    purpose = {9: "InpaintPipeline", 8: "InstructPix2PixPipeline"}.get(channels, "Pipeline")
    name = family.index["_class_name"].removesuffix("Pipeline") + purpose
    told = {"_class_name": name, "_diffusers_version": diffusers.__version__}
    found = {**family.index, **told, **parts, "scheduler": scheduler}
    return found if zeros is None or ZEROS not in family.index else {**found, ZEROS: zeros}
