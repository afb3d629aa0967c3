"""Which method, of those that fit here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tenshot.core.durations import span
from tenshot.train.forecast import Foretold
from tenshot.train.subject_options import Method
from tenshot.train.ways import WAYS

#: By how much of the model learns, and whether its class is kept: no figures. Those are what `tenshot compare` is for.
ORDER: tuple[Method, ...] = ("dreambooth", "dreambooth-no-prior", "full", "lora", "textual-inversion")
MEASURED = "Which is the most like its subject, tenshot compare measures."
PATIENCE = 2  # times as long as a LoRA: for more than that the LoRA is recommended


@dataclass(frozen=True)
class Room:
    """Bytes of memory and disk that a training may take here."""

    memory: float
    disk: float


def hurdle(found: Foretold | str, room: Room) -> str:
    """Why a training cannot be done here; empty where it can."""
    if isinstance(found, str):
        return found
    if found.peak_bytes > room.memory:
        return f"needs {found.peak_bytes / 1e9:.1f} GB of memory, {room.memory / 1e9:.1f} are free: try --fit_memory"
    if found.disk_bytes > room.disk:
        return f"needs {found.disk_bytes / 1e9:.1f} GB on the disk, {room.disk / 1e9:.1f} are free"
    return ""


def recommended(found: Mapping[Method, Foretold | str], room: Room) -> tuple[Method | None, str]:
    """A method and the reason."""
    fitting: dict[Method, Foretold] = {
        name: each
        for name in ORDER
        if (each := found.get(name)) and not isinstance(each, str) and not hurdle(each, room)
    }
    if not fitting:
        return None, "None of them fits here: take a smaller model, or another machine."
    best = next(iter(fitting))
    left_out = [WAYS[name].title for name in ORDER[: ORDER.index(best)] if name in found]
    light = fitting.get("lora")
    if light and best != "lora" and fitting[best].seconds[1] > PATIENCE * light.seconds[1]:
        longer = f"{WAYS[best].title} teaches the whole model, but takes {span(*fitting[best].seconds)}"
        return "lora", f"{WAYS['lora'].title}: {_takes(light)}. {longer}. {MEASURED}"
    reason = f"; {', '.join(left_out)} {'does' if len(left_out) == 1 else 'do'} not fit here" if left_out else ""
    return best, f"{WAYS[best].title}: {_takes(fitting[best])}{reason}. {MEASURED}"


def _takes(found: Foretold) -> str:
    memory, size = found.peak_bytes / 1e9, found.file_bytes / 1e6
    return f"{span(*found.seconds)}, {memory:.1f} GB of memory, and makes {size:.3g} MB"
