"""What `tenshot bench` is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tenshot import next_commands
from tenshot.autotune.options import Precision
from tenshot.core.errors import Fault
from tenshot.core.option_text import command
from tenshot.core.options import Options
from tenshot.option_types import Backend, BenchModel, Device, Few, Side

Task = Literal["picture", "control", "lora", "tuned"]


class BenchInferenceOptions(Options):
    """Measure drawing here: usual ways to run a model and ours, in turns, on the same pictures."""

    half_serves: ClassVar[bool] = True

    model: BenchModel = Field(
        "pocket", description="pocket, a model folder; sd15 or sdxl: of full size, random weights"
    )
    work: Path = Field(Path("out/bench"), description="where models and artifacts are made; a second run finds them")
    only: list[str] = Field([], description="contenders whose names contain one of these; default: all")
    task: list[Task] = Field(
        ["picture", "control", "lora", "tuned"],
        description="a picture; with a ControlNet; with a LoRA; of another fine-tune",
    )
    backend: list[Backend] = Field([], description="what artifacts may be built by; default: all that is here")
    precision: list[Precision] = Field([], description="what artifacts may run in; default: all that is here")
    steps: int = Field(20, ge=1, le=1000, description="denoising steps of a picture (Euler a, with guidance)")
    rounds: Few = Field(2, description="how often each has its turn")
    height: Side | None = Field(None, description="pixels; default: the model's own")
    width: Side | None = Field(None, description="pixels; default: the model's own")
    budget: float = Field(30, gt=0, le=100_000, description="minutes for the trials of each artifact")
    trial_steps: int = Field(
        20, ge=1, le=1000, description="denoising steps of the pictures that artifacts are checked on"
    )
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    out: Path | None = Field(None, description="a .md file for the tables; a .svg with the plot goes beside it")

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.out is not None and self.out.suffix != ".md":
            named = self.out.parent / f"{self.out.stem or 'bench'}.md"
            yield Fault("--out", str(self.out), "a file that ends in .md", f"--out {named}")

    def next_commands(self) -> Sequence[str]:
        return (next_commands.compiled("MODEL" if self.model in ("sd15", "sdxl") else self.model),)


class BenchTrainOptions(Options):
    """Measure training here: steps a second and peak memory, beside the usual recipe."""

    model: Literal["pocket", "sd15", "sdxl"] = Field("pocket", description="sd15, sdxl: of full size, random weights")
    method: list[Literal["lora", "dreambooth"]] = Field(["lora", "dreambooth"], description="what is trained")
    steps: int = Field(4, ge=1, le=100_000, description="measured steps in each round, after one to warm up")
    rounds: Few = Field(2, description="how often each has its turn")
    train_batch_size: Few = Field(1, description="your pictures in a step; with prior as many class pictures")
    resolution: int | None = Field(
        None, ge=64, le=16384, multiple_of=64, description="pixels; default: the model's own"
    )
    precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        "auto", description="auto: no for pocket, else bf16 where it is native"
    )
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")

    def next_commands(self) -> Sequence[str]:
        model = [] if self.model == "pocket" else ["--pretrained_model_name_or_path", "MODEL"]
        pictures = ["--instance_data_dir", "FOLDER", "--instance_prompt", next_commands.TEXT]
        return tuple(command("train", each, *model, *pictures) for each in self.method)
