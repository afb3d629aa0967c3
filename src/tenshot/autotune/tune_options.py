"""What `tenshot tune` is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tenshot import next_commands
from tenshot.core.errors import Fault, some
from tenshot.core.options import Options
from tenshot.io import destinations
from tenshot.option_types import Device, Few, FilePath, FolderPath, Model, NetFolder, PresetKind, Side

OWN = re.compile(r"[0-9a-f]{12}|tune\.json|pictures\.png|tenshot\.log")  # what lies in --out
FITS = "a new folder, or that of an earlier tuning"


class TuneOptions(Options):
    """Find the cheapest way to draw with a model that proves itself on its pictures, and let generate take it."""

    words: ClassVar[tuple[str, ...]] = ("model",)
    half_serves: ClassVar[bool] = True

    model: Model = Field(description="pocket, a model folder, a checkpoint file, what compile made, or org/name")
    certificate: PresetKind = Field(
        "same", description="same: the pictures of many steps; good: others, as good as the usual way's by a judge"
    )
    prompts: FilePath | None = Field(
        None, description="what it is to draw, a prompt a line; default: the prompts that its training recorded"
    )
    min_psnr: float = Field(33, gt=0, lt=60, description="same: dB to the pictures of many steps; 30 similar, 35 close")
    pictures: FolderPath | None = Field(
        None, description="good: of the subject, to which likeness is kept; default: those of its training"
    )
    clip: NetFolder | None = Field(
        None, description="good: judge by CLIP, org/name or a folder; default: the judge that ships, for pocket's kin"
    )
    dino: NetFolder | None = Field(None, description="beside it, tell subjects apart by DINO")
    num_images: int | None = Field(
        None, ge=2, le=100_000, description="pictures of the certificate; default: 32 for same, 100 for good"
    )
    guidance_scale: float = Field(7.5, gt=1, le=1000, description="how closely prompts are followed")
    height: Side | None = Field(None, description="pixels; default: the model's own")
    width: Side | None = Field(None, description="pixels; default: the model's own")
    budget: float = Field(30, gt=0, le=100_000, description="minutes; the same command goes on where they ended")
    rounds: Few = Field(3, description="turns in which the usual way and the new one are timed; 1 counts as 2")
    batch_size: Few = Field(4, description="pictures drawn at once")
    seed: int = Field(0, ge=0, lt=2**62, description="of the first picture")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    out: Path = Field(Path("out/tune"), description="folder for what was drawn and tried")

    @property
    def home(self) -> Path:
        return self.out

    @property
    def count(self) -> int:
        """Pictures of the certificate."""
        return self.num_images or {"same": 32, "good": 100}[self.certificate]

    @property
    def turns(self) -> int:
        """One turn alone has no spread."""
        return max(2, self.rounds)

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.dino and not self.clip:
            yield Fault("--dino", "DINO reads no prompts", "--clip beside it", "--clip openai/clip-vit-large-patch14")
        if self.certificate == "same":
            for name in ("pictures", "clip"):
                if getattr(self, name):
                    found = "has no part in --certificate same, which is of pixels"
                    yield Fault(f"--{name}", found, "--certificate good", f"leave --{name} out")

    def obstacles(self) -> Iterator[Fault]:
        if hurdle := destinations.misnamed(self.out) or destinations.obstacle(self.out):
            yield Fault("--out", f"{self.out}: {hurdle}", FITS, "name another folder")
            return
        names = sorted(path.name for path in self.out.iterdir()) if self.out.is_dir() else []
        if strange := [name for name in names if not OWN.fullmatch(name)]:
            yield Fault("--out", f"{self.out} holds other files: {some(strange)}", FITS, "name another folder")

    def next_commands(self) -> Sequence[str]:
        how = ["--preset", "good"] if self.certificate == "good" else []
        prompt = next_commands.taught(Path(self.model))
        return (next_commands.draw("checkpoint", self.model, prompt, how=how),)
