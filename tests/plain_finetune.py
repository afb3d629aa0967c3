"""Fine-tuning without Tenshot, method by method; only the dice and the first weights are Tenshot's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from torch.func import functional_call

from tenshot.train.engine.rng import CounterRNG
from tenshot.train.options import FineTuneOptions
from tests.plain_dreambooth import _loss, batch, condition, seen

Named = Mapping[str, torch.Tensor]


def lora(o: FineTuneOptions, factors: Mapping[str, Named], strength: float) -> tuple[list[float], dict[str, Named]]:
    """The losses, and the factors afterwards. factors: part -> {"LAYER.lora_A.weight" and "LAYER.lora_B.weight"}.

    Every layer's weight is W + strength * B A, multiplied out, for linear layers and convolutions.
    """
    pipe = DiffusionPipeline.from_pretrained(o.pretrained_model_name_or_path)
    free = {part: {n: t.clone().requires_grad_() for n, t in named.items()} for part, named in factors.items()}

    def weights(part: str) -> dict[str, torch.Tensor]:
        found = dict(getattr(pipe, part).named_parameters())
        for name, a in free[part].items():
            if ".lora_A." in name:
                layer = name.removesuffix(".lora_A.weight")
                b = free[part][f"{layer}.lora_B.weight"]
                change = (b.flatten(1) @ a.flatten(1)).reshape(found[f"{layer}.weight"].shape)
                found[f"{layer}.weight"] = found[f"{layer}.weight"].detach() + strength * change
        return found

    def answer(latents: torch.Tensor, times: torch.Tensor, prompts: list[str], time_ids: Any) -> torch.Tensor:
        if "text_encoder" not in free:
            with torch.no_grad():
                more = condition(pipe, prompts, time_ids)
        else:
            ids = pipe.tokenizer(prompts, padding="max_length", max_length=77, return_tensors="pt").input_ids
            states = functional_call(pipe.text_encoder, weights("text_encoder"), (ids,)).last_hidden_state
            more = {"encoder_hidden_states": states}
        return functional_call(pipe.unet, weights("unet"), (latents, times), more).sample

    trained = [tensor for named in free.values() for tensor in named.values()]
    return _fit(o, pipe, answer, trained), free


def inversion(o: Any, word: str, rows: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    """The losses, and the word's vectors afterwards; pictures have captions. rows: [vectors, width] to begin with."""
    pipe = DiffusionPipeline.from_pretrained(o.pretrained_model_name_or_path)
    tokens = [word, *(f"{word}_{number}" for number in range(1, len(rows)))]
    pipe.tokenizer.add_tokens(tokens)
    table = pipe.text_encoder.get_input_embeddings().weight.detach()
    free = rows.clone().requires_grad_()
    name = next(n for n, p in pipe.text_encoder.named_parameters() if p.shape == table.shape and "token" in n)

    def answer(latents: torch.Tensor, times: torch.Tensor, prompts: list[str], _: Any) -> torch.Tensor:
        said = [prompt.replace(word, " ".join(tokens)) for prompt in prompts]
        ids = pipe.tokenizer(said, padding="max_length", max_length=77, return_tensors="pt").input_ids
        whole = {name: torch.cat([table, free])}
        states = functional_call(pipe.text_encoder, whole, (ids,)).last_hidden_state
        return pipe.unet(latents, times, encoder_hidden_states=states).sample

    return _fit(o, pipe, answer, [free]), free.detach()


def _fit(o: Any, pipe: Any, answer: Any, trained: list[torch.Tensor]) -> list[float]:
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    paths = sorted((getattr(o, "train_data_dir", None) or o.instance_data_dir).glob("*.png"))
    beside = [path.with_suffix(".txt") for path in paths]
    captions = [each.read_text() if each.is_file() else o.instance_prompt for each in beside]
    own = seen(pipe, paths, captions, o.center_crop, o.random_flip)
    optimizer = torch.optim.AdamW(trained, lr=o.learning_rate, weight_decay=o.adam_weight_decay)
    losses = []
    for step in range(o.max_train_steps):
        n = o.train_batch_size
        rng = CounterRNG(o.seed, range(step * n, step * n + n))
        prompts, ids, latents, noise, times = batch(rng, own, "", schedule)
        said = answer(schedule.add_noise(latents, noise, times), times, prompts, ids)
        velocity = schedule.config.prediction_type == "v_prediction"
        wanted = schedule.get_velocity(latents, noise, times) if velocity else noise
        loss = _loss(o, said, wanted, times, schedule)
        gradients = torch.autograd.grad(loss, trained)
        for tensor, gradient in zip(trained, gradients, strict=True):
            tensor.grad = gradient
        torch.nn.utils.clip_grad_norm_(trained, o.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses
