"""DreamBooth (Ruiz et al., arXiv 2208.12242): a rare word becomes your subject; class pictures keep the class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
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
from tenshot.train.options import DreamBoothOptions

Stock = tuple[Path, class_pictures.Recipe]


class DreamBooth:
    """UNet (and text encoder) on the subject's pictures, with the class pictures beside them."""

    def __init__(
        self,
        base: Model,
        options: DreamBoothOptions,
        pictures: Latents,
        texts: Sequence[str],
        class_pictures: Latents | None = None,
    ) -> None:
        """texts: the prompt of each picture. class_pictures: with prior preservation, what rehearses the class."""
        self.base, self.options = base, options
        self.pictures, self.texts = pictures, list(texts)
        self.class_pictures = class_pictures
        schedule = samplers.alphas_cumprod(base.schedule)
        self.aim = Objective(base.prediction, schedule, options.snr_gamma)
        side = options.resolution or base.resolution
        self.size = (side, side)
        self.known: dict[str, int] = {}  # which row of `states` a text has, while the text encoder stands still
        self.states: dict[str, Any] = {}
        self._prepare()

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
        for part in model.NETS:
            if part in self.base.parts:
                self.base[part].requires_grad_(part in self.parts)
        if self.options.gradient_checkpointing:
            for net in self.parts.values():
                _checkpoint_gradients(net)
                net.train()


def _checkpoint_gradients(net: Any) -> None:
    """diffusers and transformers, before version 6 and after, have three names for it."""
    names = ("enable_gradient_checkpointing", "activation_checkpointing_enable", "gradient_checkpointing_enable")
    next(getattr(net, name) for name in names if hasattr(net, name))()


def train(options: DreamBoothOptions, events: Events) -> dict[str, Any]:
    """Train as `options` say; the manifest of the run comes back. Raises Refusal before anything is written."""
    place, examples, _, brought = all_or_refuse(
        lambda: _model_folder(options),
        lambda: read_folder(options.instance_data_dir),
        lambda: refuse_if(_option_faults(options)),
        lambda: options.class_data_dir and class_pictures.present(options.class_data_dir, options.num_class_images),
    )
    claim = run.identity("dreambooth", options, _inputs(place, examples, brought or []))
    whole = {part: layout.numbers(place / part) * 4 for part in model.NETS}
    trained = whole["unet"] + (whole["text_encoder"] + whole["text_encoder_2"]) * options.train_text_encoder
    stock, *_ = all_or_refuse(
        lambda: _stock(options, place, claim),
        lambda: run.check_folder(options, claim),
        lambda: run.check_disk(options, trained, sum(whole.values())),
    )
    base = model.load(str(place), device=device.pick(options.device))
    return _carry_out(base, examples, stock, claim, options, events)


def _carry_out(
    base: Model,
    examples: list[Example],
    stock: Stock | None,
    claim: Mapping[str, Any],
    options: DreamBoothOptions,
    events: Events,
) -> dict[str, Any]:
    side = options.resolution or base.resolution
    if side != base.resolution:
        events.say(f"this model was trained for {base.resolution} pixels, not {side}")
    tensors.write_json(options.output_dir / run.CLAIM, claim)
    pictures, shown = data.encoded(base, examples, side, options.center_crop, events)
    texts = [examples[number].caption or options.instance_prompt for number in shown]
    kept = None
    if stock:
        count, batch = options.num_class_images, options.sample_batch_size
        kept, _ = class_pictures.ensure(base, *stock, count, options.seed, batch, events)
    method = DreamBooth(base, options, pictures, texts, kept)
    per_epoch = max(1, len(pictures) // (options.train_batch_size * options.gradient_accumulation_steps))
    job = run.Job(method, base, claim, _plan(examples, pictures, kept, options), per_epoch)
    return run.carry_out(job, options, events)


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
    if options.with_prior_preservation and not options.class_data_dir and not options.num_class_images:
        yield Fault("--num_class_images", "0, and no --class_data_dir to take them from", "1 or more")
    if not options.with_prior_preservation and options.class_data_dir:
        yield Fault(
            "--class_data_dir",
            "has no effect without --with_prior_preservation",
            "both or neither",
            "add --with_prior_preservation",
        )


def _model_folder(options: DreamBoothOptions) -> Path:
    place = model.find(options.pretrained_model_name_or_path)
    layout.examine(place)
    denoise.check_schedule(tensors.read_json(place / "scheduler" / "scheduler_config.json"))
    return place


def _stock(options: DreamBoothOptions, place: Path, claim: Mapping[str, Any]) -> Stock | None:
    """Where class pictures lie or will lie, and what they are drawn by; None without prior preservation.

    Raises Refusal where others lie there.
    """
    if not options.with_prior_preservation:
        return None
    unet = tensors.read_json(place / "unet" / "config.json")
    side = options.resolution or unet.get("sample_size", 64) * 8
    wanted = class_pictures.recipe(claim["inputs"]["model"], options.class_prompt or "", side)
    folder = options.class_data_dir or class_pictures.cached(wanted, options.seed)
    class_pictures.check_recipe(folder, wanted)
    return folder, wanted


def _inputs(place: Path, examples: list[Example], brought: list[Example]) -> dict[str, Any]:
    return {
        "model": model.digest(place),
        "pictures": {each.path.name: each.digest[:16] for each in examples},
        "captions": {each.path.name: each.caption for each in examples if each.caption},
        "class_pictures": class_pictures.brought(brought),
    }
