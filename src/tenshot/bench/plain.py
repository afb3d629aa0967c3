"""The straightforward recipe of the usual example scripts, to measure against.

Every step opens its pictures, encodes them, runs the text encoder, and lets torch do the rest. Only the dice are ours,
so that the losses can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from PIL import Image

from tenshot.core.device import autocast
from tenshot.core.size import Size
from tenshot.io.images import as_tensor
from tenshot.model.model import Model
from tenshot.train.engine.rng import CounterRNG
from tenshot.train.options import DreamBoothOptions, LoraOptions


def steps(
    base: Model, options: DreamBoothOptions | LoraOptions, pictures: Sequence[Path], classes: Sequence[Path]
) -> Iterator[float]:
    """The loss of one optimizer step after the other."""
    unet, vae = base.denoiser, base.vae
    schedule = DDPMScheduler.from_config(dict(base.scheduler_config))
    for part in ("vae", *base.family.encoders):
        base[part].requires_grad_(False)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.mixed_precision or "no", torch.float32)
    unet.requires_grad_()
    if isinstance(options, LoraOptions):
        unet.requires_grad_(False).to(dtype=half)
        ends = base.family.targets(base.family.denoiser, options.layers)
        unet.add_adapter(
            LoraConfig(r=options.rank, lora_alpha=options.rank, init_lora_weights="gaussian", target_modules=ends)
        )
        cast_training_params(unet, torch.float32)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=options.adam_weight_decay)
    for part in ("vae", *base.family.encoders):
        base[part].to(dtype=half)
    unet.train()
    side, n = options.resolution or base.resolution, options.train_batch_size
    scaler = torch.amp.GradScaler(base.device.type, enabled=options.mixed_precision == "fp16")
    step = 0
    while True:
        draws = CounterRNG(options.seed, range(step * n, step * n + n))
        sets = [(pictures, "", options.instance_prompt or "")]
        if options.with_prior_preservation:
            sets.append((classes, "class ", options.class_prompt or ""))
        pixels, noise, times, grains, prompts = [], [], [], [], []
        shape = (4, side // base.vae_scale_factor, side // base.vae_scale_factor)
        for paths, purpose, prompt in sets:
            for row in draws.pick(f"{purpose}picture", len(paths)):
                image = Image.open(paths[row]).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
                pixels.append(as_tensor(image))
            grains.append(draws.noise(f"{purpose}posterior", shape))
            noise.append(draws.noise(f"{purpose}noise", shape))
            times.append((draws.stratified(f"{purpose}timestep") * schedule.config.num_train_timesteps).long())
            prompts += [prompt] * n
        where = base.device
        with torch.no_grad():
            posterior = vae.encode(torch.stack(pixels).to(where, half)).latent_dist
            clean = (posterior.mean + posterior.std * torch.cat(grains).to(where, half)) * vae.config.scaling_factor
            condition = base.conditioning(prompts, Size.square(side))
        wanted, when = torch.cat(noise).to(where), torch.cat(times).to(where)
        with autocast(where, options.mixed_precision or "no"):
            answer = unet(schedule.add_noise(clean.float(), wanted, when), when, **condition).sample
        halves = zip(answer.float().chunk(len(sets)), wanted.chunk(len(sets)), strict=True)
        losses = [F.mse_loss(a, b) for a, b in halves]
        loss = sum(losses[1:], losses[0])
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        step += 1
        yield loss.item()
