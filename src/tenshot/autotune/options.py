"""The options of `tenshot compile`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from tenshot import next_commands
from tenshot.autotune.tune_options import TuneOptions
from tenshot.core.errors import Fault
from tenshot.core.options import Options
from tenshot.core.size import Size
from tenshot.io import destinations
from tenshot.option_types import Backend, ControlNetPath, Device, Few, Model, PresetKind, Side, VaePath

Precision = Literal["fp32", "bf16", "fp16", "int8"]
QUANTISED = ("int8",)
Part = Literal["unet", "transformer", "controlnet", "decoder", "encoder", "text_encoder", "text_encoder_2"]


class CompileOptions(Options):
    """Compile a model for this machine: build what could run it, check each against torch, keep the fastest."""

    words: ClassVar[tuple[str, ...]] = ("model",)
    also: ClassVar[Mapping[str, str]] = {"output_dir": "out"}

    half_serves: ClassVar[bool] = True

    model: Model = Field(description="pocket, a model folder, a checkpoint file, or org/name of the hub")
    vae: VaePath | None = Field(None, description="a VAE, file or folder, in place of the model's own")
    out: Path = Field(description="the folder to write; generate --model takes it")
    parts: list[Part] = Field([], description="what to compile (default: everything there is)")
    backend: list[Backend] = Field([], description="which may be used (default: all that this machine has)")
    controlnet: ControlNetPath | None = Field(
        None, description="a ControlNet's folder, org/name of the hub, or pocket-canny, compiled along"
    )
    height: Side | None = Field(None, description="pixels; default: the model's own")
    width: Side | None = Field(None, description="pixels; default: the model's own")
    also_sizes: list[str] = Field([], description="further sizes, each as WIDTHxHEIGHT; they share the weights")
    batch: Few = Field(1, description="pictures drawn at once; with guidance the denoiser sees twice as many")
    lossless: bool = Field(False, description="only what rounds: float32, bfloat16, float16; nothing quantised")
    precision: list[Precision] = Field([], description="which may be used (default: all that this machine has)")
    max_error: float = Field(
        0.05, gt=0, le=1000, description="the largest error allowed, relative to torch in float32, over whole pictures"
    )
    rewrites: bool = Field(
        True, description="try rewrites of the net on the best backend; kept where they measure faster"
    )
    budget: float = Field(
        30,
        gt=0,
        le=100_000,
        description="minutes for everything: recording, trials, proof; what does not come to its turn is a row",
    )
    fast: PresetKind | None = Field(
        None,
        description="then let it need fewer steps, as tune does with what was compiled, with as many minutes again",
    )
    prompt: list[str] = Field(
        ["a 3d emoji of a cat on a blue background", "a flat emoji of a panda on a white background"],
        min_length=1,
        description="what the pictures show that errors are measured on",
    )
    steps: int = Field(20, ge=1, le=1000, description="denoising steps of those pictures")
    rounds: Few = Field(
        3, description="how often each candidate and torch take turns when they are timed; 1 counts as 2"
    )
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    overwrite: bool = Field(False, description="replace the folder")

    @field_validator("also_sizes")
    @classmethod
    def _sizes(cls, given: list[str]) -> list[str]:
        for each in given:
            sides = each.split("x")
            if len(sides) != 2 or not all(re.fullmatch("[1-9][0-9]{0,4}", side) for side in sides):
                raise ValueError("sizes are WIDTHxHEIGHT, like 512x768")
            if not all(int(side) % 8 == 0 and int(side) <= 16384 for side in sides):
                raise ValueError("both sides are multiples of 8, to 16384, like 512x768")
        return given

    @property
    def tuning(self) -> TuneOptions | None:
        """How what was compiled is to be tuned."""
        if self.fast is None:
            return None
        told = {name: getattr(self, name) for name in ("height", "width", "budget", "rounds", "device")}
        place = self.out.with_name(f"{self.out.name}-tune")
        return TuneOptions(model=str(self.out), certificate=self.fast, batch_size=self.batch, out=place, **told)

    @property
    def told(self) -> list[str]:
        """The prompts that were given; those that stand for none are what pocket draws."""
        return self.prompt if "prompt" in self.model_fields_set else []

    @property
    def turns(self) -> int:
        """One turn alone has no spread."""
        return max(2, self.rounds)

    def allows(self, precision: str) -> bool:
        """May something run in it?"""
        return (not self.precision or precision in self.precision) and not (self.lossless and precision in QUANTISED)

    @property
    def sizes(self) -> list[Size]:
        """The further sizes."""
        pairs = (each.split("x") for each in self.also_sizes)
        return [Size(int(high), int(wide)) for wide, high in pairs]

    def obstacles(self) -> Iterator[Fault]:
        yield from destinations.hurdles("--out", self.out, self.overwrite, self.sources, destinations.ARTIFACTS)

    def next_commands(self) -> Sequence[str]:
        own = self.model == "pocket" or "prompt" in self.model_fields_set  # else they are not what this model is for
        prompt = self.prompt[0] if own else next_commands.taught(Path(self.model))
        draw = next_commands.draw("checkpoint", self.out, prompt)
        return draw, f"{draw} --lora LORA"
