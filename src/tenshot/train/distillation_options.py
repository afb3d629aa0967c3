"""What `tenshot train distillation` can be told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tenshot import next_commands
from tenshot.adapters.usage_hint import Usage
from tenshot.core.errors import Fault, refuse_if
from tenshot.core.options import Options
from tenshot.core.recipes import Recipe, Say
from tenshot.io import text_files
from tenshot.option_types import Few, Model, Rank
from tenshot.prompt.faults import prompt_faults
from tenshot.prompt.syntax import composed, schedule, without_loras
from tenshot.train import script_options
from tenshot.train.options import AdapterOptions, Layers, TrainOptions
from tenshot.train.options import Schedule as LearningRate

TEACHER_STEPS = 24
STEPS = [steps for steps in range(4, 13) if TEACHER_STEPS % steps == 0]
PROMPTS = "a prompt a line, after those of --prompt; # begins a comment."


def _prompts(file: Path, say: Say) -> Mapping[str, object]:
    lines = text_files.numbered_lines(file, "a text file with a prompt a line")
    refuse_if(
        fault
        for number, line in lines.items()
        for fault in spoken_faults(f"--prompt_file {file}, line {number}", [line])
    )
    return {"prompt": [*lines.values()]}


class DistillationOptions(TrainOptions, AdapterOptions):
    """Make a LoRA with which a model draws in few steps of Euler and without guidance, as it does now in 24 with it."""

    words: ClassVar[tuple[str, ...]] = ("pretrained_model_name_or_path",)
    also: ClassVar[Mapping[str, str]] = {**TrainOptions.also, **script_options.ALSO_LORA}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        **Options.recipes,
        "prompt_file": Recipe(_prompts, "text file", PROMPTS, ("prompt",), joins=("prompt",)),
    }

    pretrained_model_name_or_path: Model = Field(
        description="the model that is to become fast: what a training wrote, pocket, a folder, a file, or org/name"
    )
    prompt: list[str] = Field(
        [], description="what it draws, to learn from it; default: the prompts that its training recorded"
    )
    steps: int = Field(8, ge=STEPS[0], le=STEPS[-1], description="in which it is to draw: 8; 4 is experimental")
    guidance_scale: float = Field(7.5, ge=0, le=100, description="of its own pictures, which it is to draw without")
    num_trajectories: int = Field(320, ge=1, le=1_000_000, description="pictures that it draws, to learn from them")
    sample_batch_size: Few = Field(8, description="pictures drawn at once")
    output_dir: Path = Field(Path("out/distillation"), description="folder for the result, its checkpoints and its log")
    max_train_steps: int = Field(400, ge=1, le=100_000_000, description="optimizer steps in all")
    train_batch_size: int = Field(8, ge=1, le=4096, description="examples in a batch")
    learning_rate: float = Field(
        1e-4,
        gt=0,
        le=100,
        description="step size of the optimizer; where none is given, small models have their own",
    )
    lr_scheduler: LearningRate = Field("cosine", description="course of the learning rate")
    rank: Rank = Field(64, description="width of the adapter")
    layers: Layers = Field("all", description="attention; transformer: all its linear layers; all: convolutions")

    @property
    def usage(self) -> Usage:
        """How the result wants to be drawn with."""
        return Usage(self.steps, "Euler", "sgm_uniform", 1)

    def next_commands(self) -> Sequence[str]:
        base = self.pretrained_model_name_or_path
        prompt = next(iter([*self.prompt, *next_commands.recorded(Path(base))]), next_commands.TEXT)
        draw = next_commands.draw("lora", self.output_dir, prompt, base, self.usage.words())
        return draw, next_commands.hand_over(self.output_dir)

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.steps not in STEPS:
            fits = ", ".join(map(str, STEPS))
            yield Fault("--steps", f"{self.steps} do not divide the {TEACHER_STEPS} of its teacher", fits, "--steps 8")
        if self.guidance_scale <= 1:
            found = f"{self.guidance_scale:g} is no guidance, and there is none to learn"
            yield Fault("--guidance_scale", found, "above 1, usually 7.5", "leave it out")
        if self.stop_when_learned:
            found = "has nothing to judge: no pictures are given"
            yield Fault("--stop_when_learned", found, "a number of steps", "leave it out: --max_train_steps N")
        yield from spoken_faults("--prompt", self.prompt)


def spoken_faults(where: str, prompts: Sequence[str]) -> Iterator[Fault]:
    """Prompts that no conditioning stands for from the first step to the last."""
    yield from prompt_faults(where, prompts)
    do = "write what is drawn, as in a photo of az cat"
    for prompt in prompts:
        bare, tags = without_loras(prompt)
        if tags:
            merge = "tenshot merge --sd_model MODEL --models LORA --save_to FOLDER, and name that folder"
            yield Fault(where, f"{prompt[:60]!r} names LoRAs", "a model that has learned what it draws", merge)
        elif len(composed(prompt)) > 1 or len(schedule(bare, TEACHER_STEPS)) > 1:
            yield Fault(where, f"{prompt[:60]!r} says other things at other steps, or several", "one thing", do)
