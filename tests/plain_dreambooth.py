"""DreamBooth without Tenshot, in the manner of diffusers' example script; only the dice are Tenshot's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline
from PIL import Image

from tenshot.train.draws import Draws
from tenshot.train.options import DreamBoothOptions


def losses(o: DreamBoothOptions, class_latents: torch.Tensor | None = None) -> list[float]:
    """The loss of every step, for square pictures of the model's own size, with a constant learning rate.

    class_latents: those of drawn class pictures; else the pictures in class_data_dir are encoded.
    """
    pipe = DiffusionPipeline.from_pretrained(o.pretrained_model_name_or_path)
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    paths = sorted(o.instance_data_dir.glob("*.png"))
    mean, std = _encoded(pipe.vae, paths)
    captions = [_caption(path) or o.instance_prompt for path in paths]
    if class_latents is not None:
        class_mean, class_std = class_latents, torch.zeros_like(class_latents)
    elif o.with_prior_preservation:
        class_mean, class_std = _encoded(pipe.vae, sorted(o.class_data_dir.glob("*.png")))
    encoders = [pipe.text_encoder, getattr(pipe, "text_encoder_2", None)] if o.train_text_encoder else []
    trained = [p for net in (pipe.unet, *encoders) if net for p in net.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=o.learning_rate, weight_decay=o.adam_weight_decay)
    found = []
    for step in range(o.max_train_steps):
        n = o.train_batch_size
        draws = Draws(o.seed, range(step * n, step * n + n))
        prompts, latents, noise, times = _batch(draws, mean, std, captions, "", schedule)
        if o.with_prior_preservation:
            texts = [o.class_prompt] * len(class_mean)
            second = _batch(draws, class_mean, class_std, texts, "class ", schedule)
            prompts += second[0]
            latents, noise, times = (torch.cat(p) for p in zip((latents, noise, times), second[1:], strict=True))
        answer = pipe.unet(schedule.add_noise(latents, noise, times), times, **_condition(pipe, prompts)).sample
        velocity = schedule.config.prediction_type == "v_prediction"
        wanted = schedule.get_velocity(latents, noise, times) if velocity else noise
        loss = _loss(o, answer, wanted, times, schedule)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, o.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def _loss(o: DreamBoothOptions, answer: torch.Tensor, wanted: torch.Tensor, times: torch.Tensor, schedule: Any):
    halves = 2 if o.with_prior_preservation else 1
    total = torch.zeros(())
    for number, (a, w, ts) in enumerate(
        zip(answer.chunk(halves), wanted.chunk(halves), times.chunk(halves), strict=True)
    ):
        weights = torch.tensor([_weight(o, float(schedule.alphas_cumprod[t]), schedule) for t in ts])
        part = torch.stack([F.mse_loss(x, y) for x, y in zip(a, w, strict=True)])
        total = total + (o.prior_loss_weight if number else 1.0) * (weights * part).mean()
    return total


def _weight(o: DreamBoothOptions, a: float, schedule: Any) -> float:
    if o.snr_gamma is None:
        return 1.0
    snr = a / (1 - a)
    return min(snr, o.snr_gamma) / (snr + (schedule.config.prediction_type == "v_prediction"))


def _batch(draws: Draws, mean: torch.Tensor, std: torch.Tensor, texts: list[str], purpose: str, schedule: Any):
    rows = draws.pick(f"{purpose}picture", len(mean))
    shape = mean.shape[1:]
    latents = mean[rows] + std[rows] * draws.noise(f"{purpose}posterior", shape)
    times = draws.integers(f"{purpose}timestep", 0, schedule.config.num_train_timesteps)
    return [texts[row] for row in rows], latents, draws.noise(f"{purpose}noise", shape), times


def _condition(pipe: Any, prompts: list[str]) -> dict[str, Any]:
    found = pipe.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    if len(found) == 2:
        return {"encoder_hidden_states": found[0]}
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(prompts), dtype=torch.float32)
    return {"encoder_hidden_states": found[0], "added_cond_kwargs": {"text_embeds": found[2], "time_ids": sizes}}


@torch.no_grad()
def _encoded(vae: Any, paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 127.5 - 1 for path in paths]
    found = vae.encode(torch.stack(pixels)).latent_dist
    return found.mean * vae.config.scaling_factor, found.std * vae.config.scaling_factor


def _caption(picture: Path) -> str:
    beside = picture.with_suffix(".txt")
    return beside.read_text().strip() if beside.is_file() else ""
