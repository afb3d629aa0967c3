"""The loss that fine-tuning on pictures learns by, whatever it is that learns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tenshot.core import distributed
from tenshot.core.events import Events
from tenshot.diffusion import losses
from tenshot.families.base import MicroConditioning
from tenshot.train.data.captions import CaptionSource
from tenshot.train.data.text_embeddings import TextEmbeddingCache
from tenshot.train.engine import denoising, sharding
from tenshot.train.engine.denoiser_task import DenoiserTask
from tenshot.train.engine.denoising import Latents, Objective, Predict
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.engine.trainable import Trainable, offload_unused
from tenshot.train.options import FineTuneOptions


class DiffusionLoss(DenoiserTask):
    """A denoiser on pictures and their captions, with class pictures beside them where they are given."""

    def __init__(
        self,
        trainable: Trainable,
        options: FineTuneOptions,
        pictures: Latents,
        captions: CaptionSource,
        class_pictures: Latents | None = None,
        states: TextEmbeddingCache | None = None,
    ) -> None:
        super().__init__(trainable, options)
        self.options = options
        self.pictures, self.captions, self.class_pictures = pictures, captions, class_pictures
        self.aim = Objective(
            trainable.model.process.trained_by(options),
            options.noise_offset,
            options.loss_type,
            options.huber_c,
        )
        self.states = states or TextEmbeddingCache(trainable.model)

    def heaviest_step(self, batch: int, pieces: int) -> int:
        """The first step whose pictures have the largest of the shapes, in steps of so many batches."""
        most = max(height * width for height, width in self.pictures.sizes)
        for step in range(10 * len(self.pictures.buckets)):
            first = step * pieces * batch
            row = self.pictures.pick(CounterRNG(self.options.seed, range(first, first + batch)), "picture")[0]
            if math.prod(self.pictures.sizes[row]) == most:
                return step
        return 0

    def loss(self, rng: CounterRNG) -> torch.Tensor:
        batches = [self.aim.draw(self.pictures, rng)]
        texts = [self.captions.of(batches[0].rows, rng)]
        if self.class_pictures is not None:
            batches.append(self.aim.draw(self.class_pictures, rng, "class "))
            texts.append([self.options.class_prompt or ""] * len(rng))
        whole = denoising.joined(*batches) if len(batches) == 2 else None
        if whole:
            batches, texts = [whole], [texts[0] + texts[1]]
        error = torch.cat(
            [
                self.aim.per_sample(self._predict(words, batch.frames), batch, self.trainable.model.device)
                for batch, words in zip(batches, texts, strict=True)
            ]
        )
        is_prior = [row >= len(rng) for row in range(len(error))]
        return losses.combine(error, is_prior, self.options.prior_loss_weight)

    def _predict(self, texts: list[str], frames: Sequence[MicroConditioning]) -> Predict:
        """What the denoiser answers, told of texts and frames."""
        base = self.trainable.model
        said = base.encode_prompt(texts) if self.trainable.trains_text_encoder else self.states.of(texts)
        conditioning = base.family.micro_conditioned(said, frames)
        return lambda noisy, times: base.family.predict(self.denoiser, noisy, times, conditioning)

    def prepare(self, events: Events) -> None:
        """Ask the text encoders all that can be asked beforehand, and release what no step needs."""
        possible = [self.captions.possible(row) for row in range(len(self.pictures))]
        if not self.trainable.trains_text_encoder and None not in possible:
            said = {text for texts in possible for text in texts or ()}
            said |= {self.options.class_prompt or ""} if self.class_pictures else set()
            with distributed.main_process_first():
                self.states.learn(said, events)
        offload_unused(self.trainable)
        if self.options.fsdp:
            for net in self.parts.values():
                sharding.shard(net)

    def gather(self) -> None:
        if not self.options.fsdp:
            return
        base = self.trainable.model
        for part, net in self.parts.items():
            learned = {name: sharding.whole(tensor) for name, tensor in net.state_dict().items()}
            base.offload(part)
            base[part].load_state_dict(learned)
