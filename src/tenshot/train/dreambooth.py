"""DreamBooth (Ruiz et al., arXiv 2208.12242): a rare word becomes your subject; class pictures keep the class as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn

from tenshot import device, model
from tenshot.diffusion import objective, samplers
from tenshot.errors import Fault, all_or_refuse, refuse_if
from tenshot.events import Events
from tenshot.families import family, layout
from tenshot.files import tensors
from tenshot.files.pictures import Example, read_folder
from tenshot.model import Model
from tenshot.train import class_pictures, data, denoise, run
from tenshot.train.denoise import Latents, Objective
from tenshot.train.draws import Draws
from tenshot.train.options import FineTuneOptions


class DreamBoothOptions(FineTuneOptions):
    """Teach a model one subject from 5-10 pictures."""

    instance_data_dir: Path = Field(description="folder with the pictures of your subject")
    instance_prompt: str = Field(min_length=1, description='names the subject, as in "a photo of az cat"')
    output_dir: Path = Field(Path("out/dreambooth"), description="folder for the result, its checkpoints and its log")
    with_prior_preservation: bool = Field(False, description="keep the class as it was, by class pictures")
    class_prompt: str | None = Field(None, description='the class without the subject, as in "a photo of a cat"')
    class_data_dir: Path | None = Field(None, description="folder of class pictures; missing ones are drawn into it")
    num_class_images: int = Field(100, ge=0, description="class pictures wanted at least")
    prior_loss_weight: float = Field(1.0, ge=0, description="how much class pictures count")
    sample_batch_size: int = Field(8, ge=1, description="class pictures drawn at once")


class DreamBooth:
    """UNet (and text encoder) on the subject's pictures, with the class pictures beside them."""

    def __init__(self, base: Model, pictures: Latents, texts: Sequence[str], options: DreamBoothOptions) -> None:
        """texts: the prompt of each picture. The class pictures come by `keep_class`."""
        self.base, self.options = base, options
        self.pictures, self.texts = pictures, list(texts)
        self.class_pictures: Latents | None = None
        schedule = samplers.alphas_cumprod(base.schedule)
        self.aim = Objective(base.prediction, schedule, options.snr_gamma)
        side = options.resolution or base.resolution
        self.size = (side, side)
        self._prepare()

    def keep_class(self, pictures: Latents) -> None:
        self.class_pictures = pictures

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        encoders = self.base.family.encoders if self.options.train_text_encoder else ()
        return {part: self.base[part] for part in ("unet", *encoders)}

    def loss(self, draws: Draws) -> torch.Tensor:
        batch = self.aim.draw(self.pictures, draws)
        texts = [self.texts[row] for row in batch.rows]
        if self.class_pictures is not None:
            batch = denoise.joined(batch, self.aim.draw(self.class_pictures, draws, "class "))
            texts += [self.options.class_prompt or ""] * len(draws)
        error = denoise.losses(self.base["unet"], self.aim, batch, self._condition(texts))
        is_prior = [row >= len(draws) for row in range(len(texts))]
        return objective.combine(error, is_prior, self.options.prior_loss_weight)

    def _condition(self, texts: list[str]) -> dict[str, Any]:
        if self.options.train_text_encoder:
            return self.base.condition(texts, self.size)
        if not self.known.keys() >= set(texts):
            self._learn(sorted({*self.texts, *texts}))
        rows = torch.tensor([self.known[text] for text in texts], device=self.base.device)
        return family.batched(self.states, rows)

    @torch.no_grad()
    def _learn(self, texts: list[str]) -> None:
        self.known = {text: number for number, text in enumerate(texts)}
        self.states = self.base.condition(texts, self.size)

    def _prepare(self) -> None:
        self.known: dict[str, int] = {}
        for part in model.NETS:
            if part in self.base.parts:
                self.base[part].requires_grad_(part in self.parts)
        if self.options.gradient_checkpointing:
            for net in self.parts.values():
                enable = getattr(net, "enable_gradient_checkpointing", None) or net.gradient_checkpointing_enable
                enable()
                net.train()


def train(options: DreamBoothOptions, events: Events) -> dict[str, Any]:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written."""
    refuse_if(_option_faults(options))
    place = model.find(options.pretrained_model_name_or_path)
    examples, _, _ = all_or_refuse(
        lambda: read_folder(options.instance_data_dir),
        lambda: layout.examine(place),
        lambda: _class_check(options, place),
    )
    claim = run.identity("dreambooth", options, _inputs(options, examples, place))
    trained = data.weights_bytes(place / "unet") * 2
    all_or_refuse(
        lambda: run.check_folder(options.output_dir, claim),
        lambda: run.check_disk(options.output_dir, options, trained, 2 * trained),
    )
    base = model.load(str(place), device=device.pick(options.device))
    return _carry_out(base, examples, claim, options, events)


def _carry_out(
    base: Model, examples: list[Example], claim: Mapping[str, Any], options: DreamBoothOptions, events: Events
) -> dict[str, Any]:
    side = options.resolution or base.resolution
    if side != base.resolution:
        events.say(f"this model was trained for {base.resolution} pixels, not {side}")
    tensors.write_json(options.output_dir / run.CLAIM, claim)
    pictures, shown = data.encoded(base, examples, side, options.center_crop, events)
    texts = [examples[number].caption or options.instance_prompt for number in shown]
    kept = None
    if options.with_prior_preservation:
        wanted = class_pictures.recipe(claim["inputs"]["model"], options.class_prompt or "", side)
        folder = options.class_data_dir or class_pictures.cached(wanted, options.seed)
        count, batch = options.num_class_images, options.sample_batch_size
        kept, _ = class_pictures.ensure(base, folder, wanted, count, options.seed, batch, events)
    method = DreamBooth(base, pictures, texts, options)
    if kept is not None:
        method.keep_class(kept)
    plan = _plan(examples, pictures, kept, options)
    per_epoch = max(1, len(pictures) // (options.train_batch_size * options.gradient_accumulation_steps))
    return run.carry_out(method, base, options, claim, plan, lambda: base, events, per_epoch)


def _plan(examples: list[Example], pictures: Latents, kept: Latents | None, options: DreamBoothOptions) -> str:
    own = sum(example.caption is not None for example in examples)
    words = f"{len(examples)} instance pictures ({len(pictures)} views, {own} with a caption of their own)"
    classes = f"{len(kept)} class pictures" if kept is not None else "no class pictures"
    seen = options.max_train_steps * options.train_batch_size * options.gradient_accumulation_steps
    rounds = f"{len(pictures)} pairs an epoch" if kept is not None else f"{len(pictures)} an epoch"
    return f"{words}, {classes}, {rounds}, {seen / len(pictures):.0f} epochs in {options.max_train_steps} steps"


def _option_faults(options: DreamBoothOptions) -> Iterator[Fault]:
    if options.with_prior_preservation and not options.class_prompt:
        fits = 'the class without your subject, as in --class_prompt "a photo of a cat"'
        yield Fault("--class_prompt", "is needed with --with_prior_preservation", fits)
    if not options.with_prior_preservation and options.class_data_dir:
        yield Fault(
            "--class_data_dir",
            "has no effect without --with_prior_preservation",
            "both or neither",
            "add --with_prior_preservation",
        )


def _class_check(options: DreamBoothOptions, place: Path) -> None:
    if options.with_prior_preservation and options.class_data_dir:
        unet = tensors.read_json(place / "unet" / "config.json")
        side = options.resolution or unet.get("sample_size", 64) * 8
        wanted = class_pictures.recipe(model.digest(place), options.class_prompt or "", side)
        class_pictures.check(options.class_data_dir, wanted, options.num_class_images)


def _inputs(options: DreamBoothOptions, examples: list[Example], place: Path) -> dict[str, Any]:
    return {"model": model.digest(place), "pictures": {each.path.name: each.digest[:16] for each in examples}}
