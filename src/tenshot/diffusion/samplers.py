"""The samplers that people name, and their schedules, as tables; sampling.py runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

from tenshot.core.errors import Fault, refuse_if
from tenshot.core.json_types import Config

if TYPE_CHECKING:
    from tenshot.diffusion.process import Process

Schedule = Literal["automatic", "uniform", "karras", "exponential", "sgm_uniform", "align_your_steps"]
AUTOMATIC: Schedule = "automatic"
ALIGN: Schedule = "align_your_steps"
TITLES = {  # in infotext
    "uniform": "Uniform",
    "karras": "Karras",
    "exponential": "Exponential",
    "sgm_uniform": "SGM Uniform",
    "align_your_steps": "Align Your Steps",
}


@dataclass(frozen=True)
class Solved:
    """A solver over sigmas. automatic: its schedule where none is asked for; None: it has its own, of times.

    discards: the last sigma but one is left out, as WebUI does there. brownian: its noise is a Brownian path, so that
    other numbers of steps see the same.
    """

    solver: str  # in solvers.py
    automatic: Schedule | None = "uniform"
    discards: bool = False
    brownian: bool = False


@dataclass(frozen=True)
class Scheduled:
    """A scheduler of diffusers. changes: of its configuration. named: what it calls settings of the model's own."""

    kind: str
    changes: Config = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)


OTHER = "choose another sampler"
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "timestep_spacing": "linspace"}
_SHIFT = {"flow_shift": "shift"}

#: Name in user interfaces -> for each process that it goes with, what it is there; schedules as in WebUI 1.10.
SAMPLERS: dict[str, dict[str, Solved | Scheduled]] = {
    "Euler a": {"ddpm": Solved("euler_ancestral")},
    "Euler": {"ddpm": Solved("euler"), "flow": Solved("euler")},
    "Heun": {"ddpm": Solved("heun"), "flow": Solved("heun")},
    "LMS": {"ddpm": Solved("lms"), "flow": Solved("lms")},
    "DPM2": {"ddpm": Solved("dpm2", "karras", discards=True)},
    "DPM2 a": {"ddpm": Solved("dpm2_ancestral", "karras", discards=True)},
    "DPM++ 2S a": {"ddpm": Solved("dpmpp_2s_ancestral", "karras")},
    "DPM++ 2M": {
        "ddpm": Solved("dpmpp_2m", "karras"),
        "flow": Scheduled("DPMSolverMultistepScheduler", _FLOW, _SHIFT),
    },
    "DPM++ SDE": {"ddpm": Solved("dpmpp_sde", "karras", brownian=True)},
    "DPM++ 2M SDE": {"ddpm": Solved("dpmpp_2m_sde", "exponential", brownian=True)},
    "UniPC": {
        "ddpm": Scheduled("UniPCMultistepScheduler", {"timestep_spacing": "linspace"}),
        "flow": Scheduled("UniPCMultistepScheduler", _FLOW, _SHIFT),
    },
    "DDIM": {"ddpm": Solved("euler", None)},
    "PLMS": {"ddpm": Solved("plms", None)},
    "LCM": {"ddpm": Solved("lcm", "sgm_uniform")},
}


def parted(name: str) -> tuple[str, Schedule]:
    """A sampler and its schedule from one name, as people wrote them before schedules had names: DPM++ 2M Karras."""
    wanted: tuple[Schedule, ...] = ("karras", "exponential")
    for schedule in wanted:
        if name.lower().endswith(f" {schedule}"):
            return name[: -len(schedule) - 1], schedule
    return name, AUTOMATIC


def names(process: str) -> list[str]:
    """The samplers that go with a process; the first is the one to take where none is named."""
    return [name for name, rows in SAMPLERS.items() if process in rows]


def schedule_of(name: str, schedule: Schedule, process: type[Process]) -> Schedule | None:
    """The schedule of sampler `name` where `schedule` is asked for; None where it has its own."""
    found = SAMPLERS[name][process.name]
    own = found.automatic if isinstance(found, Solved) else None
    return own if schedule == AUTOMATIC else schedule


def check(name: str | None, schedule: Schedule, process: type[Process], aligned: Sequence[float] = ()) -> None:
    """Raises Refusal where sampler `name` does not go with a process, or its schedule not with that."""
    refuse_if(_faults(name, schedule, process, aligned))


def _faults(name: str | None, schedule: Schedule, process: type[Process], aligned: Sequence[float]) -> Iterator[Fault]:
    known = names(process.name)
    found = SAMPLERS[name or known[0]].get(process.name)
    if found is None:
        yield Fault(f"sampler {name}", f"the model's process is {process.title}", ", ".join(known), OTHER)
        return
    own = isinstance(found, Scheduled) or found.automatic is None
    if own and schedule != AUTOMATIC:
        yield Fault(f"schedule {schedule}", f"{name} has its own", AUTOMATIC, OTHER)
    if schedule == ALIGN and not aligned:
        fits = ", ".join(each for each in get_args(Schedule) if each != ALIGN)
        yield Fault(f"schedule {schedule}", "none was published for this family", fits, "choose another schedule")
    if isinstance(found, Solved) and found.brownian and not find_spec("torchsde"):
        do = 'pip install "tenshot[samplers]", or choose another sampler'
        yield Fault(f"sampler {name}", "its noise is a Brownian path: torchsde is not installed", "torchsde", do)
