"""The one noun: a Stable Diffusion model with all its parts, as every verb takes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tenshot.device import DTYPES
from tenshot.errors import Fault, Refusal
from tenshot.families import layout
from tenshot.families.family import Family
from tenshot.files import tensors

ASSETS = Path(__file__).parent / "assets"
NETS = ("unet", "vae", "text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Model:
    """parts: unet, vae, text_encoder(s), tokenizer(s). schedule: the configuration of its noise schedule.

    place: the folder it was opened from.
    """

    family: Family
    parts: Mapping[str, Any]
    schedule: Mapping[str, Any]
    place: Path

    def __getitem__(self, part: str) -> Any:
        return self.parts[part]

    @property
    def device(self) -> torch.device:
        return self["unet"].device

    @property
    def dtype(self) -> torch.dtype:
        return self["unet"].dtype

    @property
    def factor(self) -> int:
        """Pixels a latent stands for, along one side."""
        return 2 ** (len(self["vae"].config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """The side in pixels that the UNet was trained for."""
        return int(self["unet"].config.sample_size) * self.factor

    @property
    def prediction(self) -> Any:
        return self.schedule.get("prediction_type", "epsilon")

    def with_parts(self, **parts: Any) -> Model:
        """The same model with some parts replaced."""
        return replace(self, parts={**self.parts, **parts})

    def condition(self, prompts: list[str], size: tuple[int, int]) -> dict[str, Any]:
        """The UNet's further arguments for `prompts`; size: (height, width) in pixels."""
        return self.family.condition(self.parts, prompts, size)


def load(name: str, *, device: torch.device | str = "cpu", precision: str = "fp32") -> Model:
    """Open a model: "pocket", or a folder in the diffusers layout. The VAE and norms keep float32 in training.

    Raises Refusal with every fault of the folder: missing, truncated or wrongly shaped parts.
    """
    place = find(name)
    family, parts = layout.examine(place)
    schedule = tensors.read_json(place / "scheduler" / "scheduler_config.json")
    opened = {part: _open(place / part, kind, DTYPES[precision], device) for part, kind in parts.items()}
    return Model(family, opened, schedule, place)


def find(name: str) -> Path:
    """The folder that `name` means. Raises Refusal where there is none."""
    place = ASSETS / name if name == "pocket" else Path(name)
    if not place.is_dir():
        near = "pocket (ships with Tenshot), or a folder with model_index.json"
        raise Refusal(Fault(f"model {name}", "no such model folder", near, "models are not downloaded: give a folder"))
    return place


def save(model: Model, folder: Path) -> None:
    """Write `model` to `folder` in the diffusers layout, whole or not at all."""
    with tensors.replacing_folder(folder) as temporary:
        write_into(model, temporary)


def write_into(model: Model, folder: Path) -> None:
    """Write every part and then model_index.json into `folder`, beside what else it holds; each part whole or not at all."""
    for name, part in model.parts.items():
        with tensors.replacing_folder(folder / name) as temporary:
            part.save_pretrained(temporary)
            _name_as_expected(temporary / "model.safetensors", part)
    tensors.write_json(folder / "scheduler" / "scheduler_config.json", dict(model.schedule))
    index = {name: [_library(part), type(part).__name__] for name, part in model.parts.items()}
    scheduler = ["diffusers", model.schedule.get("_class_name", "PNDMScheduler")]
    tensors.write_json(folder / "model_index.json", _index(model.family, index | {"scheduler": scheduler}))


def digest(place: Path) -> str:
    """A hex digest of a model folder's weights and configurations."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(place.rglob("*")):
        if path.suffix in {".safetensors", ".bin", ".json"} and path.parent.parent == place:
            found.update(str(path.relative_to(place)).encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "blake2b").digest())
    return found.hexdigest()


def _open(place: Path, kind: str, dtype: torch.dtype, device: torch.device | str) -> Any:
    library = diffusers if hasattr(diffusers, kind) else transformers
    cls = getattr(library, kind)
    if "Tokenizer" in kind:
        return cls.from_pretrained(place)
    variant = layout.variant(place)
    return cls.from_pretrained(place, torch_dtype=dtype, variant=variant, local_files_only=True).to(device).eval()


def _name_as_expected(file: Path, part: Any) -> None:
    """Put back `text_model.` where transformers >= 5.6 leaves it out: every other program expects it."""
    if isinstance(part, transformers.CLIPTextModel):
        named = tensors.read(file)
        prefix = "text_model."
        whole = {name if name.startswith(prefix) else prefix + name: tensor for name, tensor in named.items()}
        tensors.write(file, whole, {"format": "pt"})


def _library(part: Any) -> str:
    return type(part).__module__.split(".")[0]


def _index(family: Family, parts: Mapping[str, Any]) -> dict[str, Any]:
    if family.name == "sdxl":
        return {"_class_name": "StableDiffusionXLPipeline", **parts, "force_zeros_for_empty_prompt": True}
    nothing = {"safety_checker": [None, None], "feature_extractor": [None, None], "image_encoder": [None, None]}
    return {"_class_name": "StableDiffusionPipeline", **parts, **nothing, "requires_safety_checker": False}
