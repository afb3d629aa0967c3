"""DreamBooth without Tenshot, in the manner of diffusers' example script; only the dice are Tenshot's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline
from PIL import Image, ImageOps

from tenshot.train.engine.rng import CounterRNG
from tenshot.train.options import DreamBoothOptions


class Seen(NamedTuple):
    """Encoded views: the VAE's mean and std [n, c, h/8, w/8], what is said of each, and its six numbers for SDXL."""

    mean: torch.Tensor
    std: torch.Tensor
    texts: list[str]
    time_ids: list[list[int]]


def losses(o: DreamBoothOptions, class_latents: torch.Tensor | None = None) -> list[float]:
    """The loss of every step, learning squares, with a constant learning rate.

    class_latents: those of drawn class pictures; else the pictures in class_data_dir are encoded.
    """
    pipe = DiffusionPipeline.from_pretrained(o.pretrained_model_name_or_path)
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    paths = sorted(o.instance_data_dir.glob("*.png"))
    own = seen(pipe, paths, [_caption(path) or o.instance_prompt for path in paths], o.center_crop, o.random_flip)
    if class_latents is not None:
        side, n = _side(pipe), len(class_latents)
        ids = [[side, side, 0, 0, side, side]] * n
        others = Seen(class_latents, torch.zeros_like(class_latents), [o.class_prompt] * n, ids)
    elif o.with_prior_preservation:
        paths = sorted(o.class_data_dir.glob("*.png"))
        others = seen(pipe, paths, [o.class_prompt] * len(paths), center_crop=True, flip=False)
    encoders = [pipe.text_encoder, getattr(pipe, "text_encoder_2", None)] if o.train_text_encoder else []
    trained = [p for net in (pipe.unet, *encoders) if net for p in net.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=o.learning_rate, weight_decay=o.adam_weight_decay)
    found = []
    for step in range(o.max_train_steps):
        n = o.train_batch_size
        rng = CounterRNG(o.seed, range(step * n, step * n + n))
        prompts, ids, latents, noise, times = batch(rng, own, "", schedule)
        if o.with_prior_preservation:
            second = batch(rng, others, "class ", schedule)
            prompts, ids = prompts + second[0], ids + second[1]
            latents, noise, times = (torch.cat(p) for p in zip((latents, noise, times), second[2:], strict=True))
        more = condition(pipe, prompts, ids)
        answer = pipe.unet(schedule.add_noise(latents, noise, times), times, **more).sample
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


def batch(rng: CounterRNG, own: Seen, purpose: str, schedule: Any):
    rows = rng.pick(f"{purpose}picture", len(own.mean))
    shape = own.mean.shape[1:]
    latents = own.mean[rows] + own.std[rows] * rng.noise(f"{purpose}posterior", shape)
    times = (rng.stratified(f"{purpose}timestep") * schedule.config.num_train_timesteps).floor().long()
    said = [own.texts[row] for row in rows], [own.time_ids[row] for row in rows]
    return *said, latents, rng.noise(f"{purpose}noise", shape), times


def condition(pipe: Any, prompts: list[str], time_ids: list[list[int]]) -> dict[str, Any]:
    found = pipe.encode_prompt(prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    if len(found) == 2:
        return {"encoder_hidden_states": found[0]}
    added = {"text_embeds": found[2], "time_ids": torch.tensor(time_ids, dtype=torch.float32)}
    return {"encoder_hidden_states": found[0], "added_cond_kwargs": added}


@torch.no_grad()
def seen(pipe: Any, paths: list[Path], texts: list[str], center_crop: bool, flip: bool) -> Seen:
    """An oblong picture at three places or in its middle; with `flip` each mirrored, too.

    Algorithm 1 of the SDXL paper (arXiv 2307.01952, appendix C): the size before anything is done; scaled until the
    shorter side fits; then the corner of the crop. What is mirrored is mirrored before all that.
    """
    side = _side(pipe)
    pixels, said, ids = [], [], []
    for path, text in zip(paths, texts, strict=True):
        image = Image.open(path)
        oblong = image.width != image.height
        for place in (0.0, 0.5, 1.0) if oblong and not center_crop else (0.5,):
            for mirrored in (False, True) if flip else (False,):
                whole = ImageOps.mirror(image) if mirrored else image
                scale = side / min(whole.size)
                whole = whole.resize(
                    (round(whole.width * scale), round(whole.height * scale)), Image.Resampling.LANCZOS
                )
                left = round((whole.width - side) * (1 - place if mirrored else place))
                top = round((whole.height - side) * place)
                crop = whole.crop((left, top, left + side, top + side))
                pixels.append(torch.from_numpy(np.array(crop)).permute(2, 0, 1) / 127.5 - 1)
                said.append(text)
                ids.append([image.height, image.width, top, left, side, side])
    found, factor = pipe.vae.encode(torch.stack(pixels)).latent_dist, pipe.vae.config.scaling_factor
    return Seen(found.mean * factor, found.std * factor, said, ids)


def _side(pipe: Any) -> int:
    return pipe.unet.config.sample_size * pipe.vae_scale_factor


def _caption(picture: Path) -> str:
    beside = picture.with_suffix(".txt")
    return beside.read_text().strip() if beside.is_file() else ""
