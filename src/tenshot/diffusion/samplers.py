"""The samplers people name, as diffusers schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tenshot.core.errors import Fault, Refusal
from tenshot.core.json_types import Config

if TYPE_CHECKING:
    import torch

    from tenshot.diffusion.process import Process


@dataclass(frozen=True)
class Row:
    """kind: a class in diffusers. changes: of its configuration. named: what it calls settings of the model's own."""

    kind: str
    changes: Config = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)


OTHER = "choose another sampler"
_FLOW, _SHIFT = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}, {"flow_shift": "shift"}

#: Name in user interfaces -> for each process that it goes with, what it is there.
SAMPLERS: dict[str, dict[str, Row]] = {
    "Euler a": {"ddpm": Row("EulerAncestralDiscreteScheduler")},
    "Euler": {"ddpm": Row("EulerDiscreteScheduler"), "flow": Row("FlowMatchEulerDiscreteScheduler")},
    "Heun": {"ddpm": Row("HeunDiscreteScheduler"), "flow": Row("FlowMatchHeunDiscreteScheduler")},
    "DDIM": {"ddpm": Row("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False})},
    "DPM++ 2M": {
        "ddpm": Row("DPMSolverMultistepScheduler"),
        "flow": Row("DPMSolverMultistepScheduler", _FLOW, _SHIFT),
    },
    "DPM++ 2M Karras": {"ddpm": Row("DPMSolverMultistepScheduler", {"use_karras_sigmas": True})},
    "UniPC": {"ddpm": Row("UniPCMultistepScheduler"), "flow": Row("UniPCMultistepScheduler", _FLOW, _SHIFT)},
    "PLMS": {"ddpm": Row("PNDMScheduler", {"skip_prk_steps": True})},
}


def names(process: str) -> list[str]:
    """The samplers that go with a process; the first is the one to take where none is named."""
    return [name for name, rows in SAMPLERS.items() if process in rows]


def row(name: str | None, process: type[Process]) -> Row:
    """The row of sampler `name`, or of the usual one. Raises Refusal where it does not go with a process."""
    known = names(process.name)
    found = SAMPLERS[name or known[0]].get(process.name)
    if found is None:
        raise Refusal(Fault(f"sampler {name}", f"the model's process is {process.title}", ", ".join(known), OTHER))
    return found


@dataclass(frozen=True)
class Sampler:
    """One way from noise to latents, of a diffusers scheduler with its steps set. Not all of these have all methods."""

    scheduler: Any

    @property
    def timesteps(self) -> torch.Tensor:
        timesteps: torch.Tensor = self.scheduler.timesteps
        return timesteps

    def begin(self, noise: torch.Tensor) -> torch.Tensor:
        """Noise of variance 1, as strong as the first step wants it."""
        return noise * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def seen(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the denoiser is shown of `x`."""
        return self.scheduler.scale_model_input(x, t) if hasattr(self.scheduler, "scale_model_input") else x

    def step(
        self, answer: torch.Tensor, t: torch.Tensor, x: torch.Tensor, dice: Sequence[torch.Generator]
    ) -> torch.Tensor:
        """`x` after the denoiser's answer. dice: for each row, where samplers that add noise have it from."""
        wants = "generator" in inspect.signature(self.scheduler.step).parameters
        after = self.scheduler.step(answer, t, x, **({"generator": list(dice)} if wants else {}))
        before: torch.Tensor = after.prev_sample
        return before


def sampler(name: str | None, steps: int, config: Config, process: type[Process]) -> Sampler:
    """Sampler `name` with `steps` steps, for a model whose scheduler's configuration is `config`.

    name: None for the usual one of its process. Raises Refusal where that sampler does not go with it.
    """
    import diffusers

    found = row(name, process)
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    renamed = {theirs: own.pop(ours) for theirs, ours in found.named.items() if ours in own}
    try:
        made = getattr(diffusers, found.kind).from_config({**own, **renamed, **found.changes})
    except ImportError as error:  # it has to do with a package that diffusers does not bring along
        told = " ".join(str(error).split())
        raise Refusal(
            Fault(f"sampler {name}", told, ", ".join(names(process.name)), f"install it, or {OTHER}")
        ) from None
    except Exception as error:  # what a configuration says can be wrong for one sampler alone, in any way
        told = f"the model's scheduler_config.json makes no {found.kind}: {str(error)[:200] or type(error).__name__}"
        raise Refusal(Fault(f"sampler {name}", told, ", ".join(names(process.name)), OTHER)) from None
    made.set_timesteps(steps)
    return Sampler(made)
