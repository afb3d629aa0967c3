"""What a model's pictures and latents measure, as the configurations of its denoiser and VAE tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tenshot.core.json_types import Config
from tenshot.families import validate
from tenshot.io import text_files


@dataclass(frozen=True)
class Sides:
    """In pixels. factor: that a latent stands for, along one side. resolution: that the denoiser was trained for.

    multiple: what sides are multiples of; a transformer sees latents in patches. most: the longest, as far as it has
    places for patches; None: any. channels: of latents.
    """

    factor: int
    resolution: int
    multiple: int
    most: int | None
    channels: int

    @classmethod
    def of(cls, denoiser: Config, vae: Config) -> Sides:
        factor = 2 ** (len(vae.get("block_out_channels", (64,))) - 1)
        multiple, places = factor * int(denoiser.get("patch_size") or 1), denoiser.get("pos_embed_max_size")
        most = int(places) * multiple if places else None
        resolution = int(denoiser.get("sample_size") or 64) * factor
        return cls(factor, resolution, multiple, most, int(vae.get("latent_channels", 4)))

    @classmethod
    def of_folder(cls, place: Path) -> Sides:
        """Of a model's folder. Raises Refusal where a configuration cannot be read."""
        return cls.of(validate.denoiser_config(place), text_files.read_object(place / "vae" / "config.json"))
