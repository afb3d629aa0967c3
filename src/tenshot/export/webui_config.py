"""The yaml that AUTOMATIC1111 and Forge read beside a checkpoint: it alone tells them of v-prediction.

Its keys are those of the original programs' configurations: CompVis' latent diffusion (SD1.x, SD2.x) and Stability's
generative models (SDXL). Its values follow from the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tenshot.core.json_types import Config
from tenshot.io import tensors
from tenshot.model.checkpoint import LazyModel

LDM, SGM = "ldm.modules", "sgm.modules"


def write(whole: LazyModel, checkpoint: Path) -> Path | None:
    """Beside a checkpoint that predicts v; others need none, and None comes back."""
    if whole.scheduler_config.get("prediction_type") != "v_prediction":
        return None
    model = _generative(whole) if whole.family.webui.generative else _latent(whole)
    target = checkpoint.with_suffix(".yaml")
    tensors.write_text(target, yaml.safe_dump({"model": model}, sort_keys=False))
    return target


def _latent(whole: LazyModel) -> dict[str, object]:
    schedule, ((embedder, text),) = whole.scheduler_config, whole.family.webui.embedders
    unet = {"image_size": whole.denoiser.get("sample_size", 64), **_unet(whole.denoiser)}
    return _made(
        "ldm.models.diffusion.ddpm.LatentDiffusion",
        parameterization="v",
        linear_start=schedule.get("beta_start", 0.00085),
        linear_end=schedule.get("beta_end", 0.012),
        timesteps=schedule.get("num_train_timesteps", 1000),
        num_timesteps_cond=1,
        first_stage_key="jpg",
        cond_stage_key="txt",
        cond_stage_trainable=False,
        conditioning_key="crossattn",
        image_size=unet["image_size"],
        channels=whole.configs["vae"].get("latent_channels", 4),
        scale_factor=whole.configs["vae"]["scaling_factor"],
        use_ema=False,
        unet_config=_made(f"{LDM}.diffusionmodules.openaimodel.UNetModel", **unet),
        first_stage_config=_made("ldm.models.autoencoder.AutoencoderKL", **_vae(whole.configs["vae"])),
        cond_stage_config=_made(f"{LDM}.encoders.modules.{embedder}", **text),
    )


def _generative(whole: LazyModel) -> dict[str, object]:
    denoiser = f"{SGM}.diffusionmodules"
    return _made(
        "sgm.models.diffusion.DiffusionEngine",
        scale_factor=whole.configs["vae"]["scaling_factor"],
        disable_first_stage_autocast=True,
        denoiser_config=_made(
            f"{denoiser}.denoiser.DiscreteDenoiser",
            num_idx=whole.scheduler_config.get("num_train_timesteps", 1000),
            weighting_config=_made(f"{denoiser}.denoiser_weighting.VWeighting"),
            scaling_config=_made(f"{denoiser}.denoiser_scaling.VScaling"),
            discretization_config=_made(f"{denoiser}.discretizer.LegacyDDPMDiscretization"),
        ),
        network_config=_made(f"{denoiser}.openaimodel.UNetModel", **_unet(whole.denoiser)),
        conditioner_config=_made(f"{SGM}.GeneralConditioner", emb_models=_embedders(whole)),
        first_stage_config=_made("sgm.models.autoencoder.AutoencoderKLInferenceWrapper", **_vae(whole.configs["vae"])),
    )


def _embedders(whole: LazyModel) -> list[dict[str, object]]:
    """The text encoders; then the picture's first size, its crop and its size as numbers."""
    place = f"{SGM}.encoders.modules"
    found = [
        {"is_trainable": False, "input_key": "txt", **_made(f"{place}.{name}", **told)}
        for name, told in whole.family.webui.embedders
    ]
    for key in ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple"):
        size = _made(f"{place}.ConcatTimestepEmbedderND", outdim=whole.denoiser.get("addition_time_embed_dim", 256))
        found.append({"is_trainable": False, "input_key": key, **size})
    return found


def _unet(config: Config) -> dict[str, object]:
    widths, blocks = config["block_out_channels"], config["down_block_types"]
    heads = config.get("attention_head_dim", 8)
    depth = config.get("transformer_layers_per_block", 1)
    attending = [2**number for number, block in enumerate(blocks) if "CrossAttn" in block]
    told = {
        "use_checkpoint": False,
        "in_channels": config.get("in_channels", 4),
        "out_channels": config.get("out_channels", 4),
        "model_channels": widths[0],
        "attention_resolutions": attending[::-1],
        "num_res_blocks": config.get("layers_per_block", 2),
        "channel_mult": [width // widths[0] for width in widths],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": bool(config.get("use_linear_projection")),
        "transformer_depth": list(depth) if isinstance(depth, list | tuple) else depth,
        "context_dim": config["cross_attention_dim"],
        "legacy": False,
    }
    if isinstance(heads, int):
        told["num_heads"] = heads
    else:
        told["num_head_channels"] = widths[0] // heads[0]
    if config.get("addition_embed_type"):
        told |= {"num_classes": "sequential", "adm_in_channels": config["projection_class_embeddings_input_dim"]}
    return told


def _vae(config: Config) -> dict[str, object]:
    widths = config["block_out_channels"]
    net = {
        "double_z": True,
        "z_channels": config.get("latent_channels", 4),
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config.get("layers_per_block", 2),
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {"embed_dim": config.get("latent_channels", 4), "ddconfig": net, "lossconfig": _made("torch.nn.Identity")}


def _made(target: str, **params: Any) -> dict[str, object]:
    """A class by its name, and what it is made with."""
    return {"target": target, "params": params} if params else {"target": target}
