"""The samplers people name, as diffusers schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenshot.errors import Fault, Refusal

#: Name in user interfaces -> (class in diffusers, what its configuration changes).
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
}


def scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler for sampler `name` with the noise schedule of a model's scheduler `config`.

    Raises Refusal where that sampler cannot have it.
    """
    import diffusers

    kind, changes = SAMPLERS[name]
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return getattr(diffusers, kind).from_config({**own, **changes})
    except Exception as error:  # what a configuration says can be wrong for one sampler alone, in any way
        found = f"the model's scheduler_config.json makes no {kind}: {str(error)[:200] or type(error).__name__}"
        raise Refusal(Fault(f"sampler {name}", found, ", ".join(SAMPLERS), "choose another sampler")) from None


def alphas_cumprod(config: Mapping[str, Any]):
    """The cumulative products [timesteps] of the noise schedule in a model's scheduler `config`, float32."""
    import diffusers

    return diffusers.DDPMScheduler.from_config(dict(config)).alphas_cumprod
