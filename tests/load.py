"""Many clients at once on a real server on loopback: none lost, none mixed up, what is cancelled gone, memory flat.

python -m tests.load [--requests 2000] [--connections 32] [--kills 0] [--beside 96] [--side 128] [--json FILE]

Pictures of few steps are asked for with twenty sets of LoRAs and several samplers; a third of the requests, at random,
is malformed, interrupted, or of a client that goes away. Every picture is compared with the one that `tenshot generate`
draws of that seed. --kills: so often the process that draws is killed meanwhile. --beside: so many pictures more, none
of them cancelled, in turns with a server that batches nothing, one that groups no LoRAs, and diffusers one at a time.
Exit code 0 where everything holds, else 1; the figures are printed, and written to --json.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
from PIL import Image

from tests.servers import Running

SETS, SEEDS, FILES = 20, 3, 6
SAMPLERS = ("Euler a", "DDIM", "DPM++ 2M", "Heun")
PROMPT = "a 3d emoji of a cat on a blue background"
PATIENCE = 600.0  # seconds for one answer
HEALED = 15.0  # seconds until pictures come again after a kill
GROWTH = 64e6  # bytes by which memory may differ in the second half
UNGROUPED = (
    "from tenshot.serve import queue; queue.PATIENCE = 0; from tenshot.cli.main import main; raise SystemExit(main())"
)
MALFORMED: tuple[dict[str, object], ...] = (
    {"steps": 0},
    {"sampler_name": "none such"},
    {"width": 63},
    {"prompt": "a <lora:none-such:1>"},
    {"init_images": ["no base64 at all!"], "steps": "x"},
)


@dataclass(frozen=True)
class Ask:
    """One picture: a LoRA set and a seed; the set says sampler and steps, too."""

    number: int
    seed: int
    side: int

    @property
    def loras(self) -> dict[str, float]:
        first, second = f"lora{self.number % FILES}", f"lora{(self.number + 1 + self.number // FILES) % FILES}"
        if self.number == 0:
            return {}
        return {first: 0.6} if self.number <= FILES else {first: 0.5, second: 0.3 + self.number / 100}

    @property
    def prompt(self) -> str:
        return " ".join([PROMPT, *(f"<lora:{name}:{strength}>" for name, strength in self.loras.items())])

    @property
    def sampler(self) -> str:
        return SAMPLERS[self.number % len(SAMPLERS)]

    @property
    def steps(self) -> int:
        return 3 + self.number % 3

    @property
    def body(self) -> dict[str, object]:
        sized = {"width": self.side, "height": self.side, "cfg_scale": 7.0}
        return {"prompt": self.prompt, "seed": self.seed, "steps": self.steps, "sampler_name": self.sampler, **sized}


def asks(side: int) -> list[Ask]:
    return [Ask(number, 100 * number + seed, side) for number in range(SETS) for seed in range(SEEDS)]


@dataclass
class Found:
    """What became of requests. faults: what is not as it should be."""

    ended: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    healed: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    pictures: int = 0
    wall: float = 0.0
    cpu: float = 0.0

    def told(self) -> dict[str, object]:
        later = self.memory[len(self.memory) // 2 :]
        shares = statistics.quantiles(self.seconds, n=100) if len(self.seconds) > 1 else [0.0] * 99
        return {
            "ended": dict(self.ended),
            "pictures": self.pictures,
            "pictures_per_second": self.pictures / self.wall,
            "cpu_seconds_per_picture": self.cpu / max(1, self.pictures),
            "p50": shares[49],
            "p95": shares[94],
            "p99": shares[98],
            "longest": max(self.seconds, default=0.0),
            "memory": [each // 10**6 for each in self.memory],
            "memory_spread_of_the_second_half": max(later) - min(later) if later else 0,
            "healed_after": self.healed,
            "faults": self.faults,
        }


class Load:
    """server: what is asked. expected: each picture as the command line draws it."""

    def __init__(self, server: Running, expected: dict[Ask, np.ndarray], connections: int, seed: int) -> None:
        self.server, self.expected, self.connections = server, expected, connections
        self.dice, self.found = random.Random(seed), Found()
        self.tree = psutil.Process(server.process.pid)
        self.killed: float | None = None  # when, while no picture has come since

    def run(self, count: int, faulty: bool, kills: int = 0) -> Found:
        asyncio.run(self._all(count, faulty, kills))
        return self.found

    async def _all(self, count: int, faulty: bool, kills: int) -> None:
        work = iter([self._work(faulty) for _ in range(count)])
        moments = {count * (number + 1) // (kills + 1) for number in range(kills)}
        began, cpu, done = time.monotonic(), self._cpu(), 0
        limits = httpx2.Limits(max_connections=4 * self.connections)

        async def client(name: str) -> None:
            nonlocal done
            headers = {"User-Agent": name}
            async with httpx2.AsyncClient(
                base_url=self.server.url, headers=headers, timeout=PATIENCE, limits=limits
            ) as http:
                for kind, ask in work:
                    await self._one(http, kind, ask)
                    done += 1
                    if done in moments:
                        self._kill()
                    if done % max(1, count // 20) == 0:
                        self.found.memory.append(self._memory())
                        print(f"{done} of {count}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

        await asyncio.gather(*(client(f"client {number}") for number in range(self.connections)))
        self.found.wall, self.found.cpu = time.monotonic() - began, self._cpu() - cpu

    def _work(self, faulty: bool) -> tuple[str, Ask]:
        kind = self.dice.choice(["picture"] * 6 + ["malformed", "leaves", "interrupts"]) if faulty else "picture"
        return kind, self.dice.choice([*self.expected])

    async def _one(self, http: Any, kind: str, ask: Ask) -> None:
        body, began = ask.body, time.monotonic()
        if kind == "malformed":
            answer = await http.post("/sdapi/v1/txt2img", json=body | self.dice.choice(MALFORMED))
            self._end(kind if answer.status_code in (400, 404, 422) else f"{kind}: {answer.status_code}")
        elif kind == "leaves":
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(http.post("/sdapi/v1/txt2img", json=body), self.dice.uniform(0, 1.5))
            self._end(kind)
        else:
            asked = asyncio.create_task(http.post("/sdapi/v1/txt2img", json=body))
            if kind == "interrupts":
                await asyncio.wait([asked], timeout=self.dice.uniform(0, 1.5))
                (await http.post("/sdapi/v1/interrupt")).raise_for_status()
            try:
                answer = await asked
            except httpx2.HTTPError as error:
                self._end(f"lost: {type(error).__name__}", True)
                return
            self._answered(kind, ask, answer, time.monotonic() - began)

    def _answered(self, kind: str, ask: Ask, answer: Any, seconds: float) -> None:
        if answer.status_code == 500 and "started anew" in answer.text:
            self._end("failed by a kill", not self.kills_seen)
            return
        images = answer.json().get("images", []) if answer.status_code == 200 else []
        if answer.status_code != 200 or len(images) != 1:
            wanted = kind == "interrupts" and answer.status_code == 200 and not images
            self._end("interrupted" if wanted else f"{kind}: {answer.status_code} {answer.text[:200]}", not wanted)
            return
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(images[0]))), dtype=int)
        if np.abs(pixels - self.expected[ask]).max() > 1:
            self._end(f"mixed up: {ask}", True)
            return
        if self.killed is not None:
            self.found.healed.append(time.monotonic() - self.killed)
            self.killed = None
        self.found.seconds.append(seconds)
        self.found.pictures += 1
        self._end("picture")

    @property
    def kills_seen(self) -> bool:
        return self.killed is not None or bool(self.found.healed)

    def _end(self, how: str, fault: bool = False) -> None:
        self.found.ended[how.partition(":")[0]] += 1
        if fault or ":" in how:
            self.found.faults.append(how)

    def _kill(self) -> None:
        drawing = max(self.tree.children(), key=lambda each: each.memory_info().rss)
        self.killed = time.monotonic()
        drawing.kill()

    def _memory(self) -> int:
        return sum(each.memory_info().rss for each in (self.tree, *self.tree.children(recursive=True)))

    def _cpu(self) -> float:
        return sum(sum(each.cpu_times()[:2]) for each in (self.tree, *self.tree.children(recursive=True)))


class Ungrouped(Running):
    """A server that draws strictly in turn."""

    program = ("-c", UNGROUPED)


def drawn_by_the_command_line(model: str, folder: Path, loras: Path, side: int) -> dict[Ask, np.ndarray]:
    """Alone, as `tenshot generate` draws them."""
    from tenshot.core.events import Events
    from tenshot.core.options import resolve
    from tenshot.generate.generate import generate
    from tenshot.generate.options import GenerateOptions

    found = {}
    for number in range(SETS):
        of_set = [each for each in asks(side) if each.number == number]
        first = of_set[0]
        out = folder / str(number)
        if not out.is_dir():
            told = {"model": model, "prompt": [first.prompt], "lora_dir": [loras], "seed": first.seed}
            told |= {"steps": first.steps, "sampler": first.sampler, "guidance_scale": 7.0, "num_images": SEEDS}
            told |= {"width": side, "height": side, "out": out, "batch_size": 1, "device": "cpu"}
            generate(resolve(GenerateOptions, told), Events())
        for ask, picture in zip(of_set, sorted(out.iterdir()), strict=True):
            found[ask] = np.asarray(Image.open(picture).convert("RGB"), dtype=int)
    return found


def diffusers_one_at_a_time(place: Path, loras: Path, side: int) -> Callable[[Ask], float]:
    """CPU seconds of a picture. The LoRAs are in memory; the ones that a picture names are chosen for it."""
    import torch
    from diffusers import (
        DDIMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        HeunDiscreteScheduler,
        StableDiffusionPipeline,
    )

    pipe: Any = StableDiffusionPipeline.from_pretrained(
        place, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    kinds = (EulerAncestralDiscreteScheduler, DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler)
    schedulers = dict(zip(SAMPLERS, (kind.from_config(pipe.scheduler.config) for kind in kinds), strict=True))
    for number in range(FILES):
        pipe.load_lora_weights(loras / f"lora{number}.safetensors", adapter_name=f"lora{number}")

    def draw(ask: Ask) -> float:
        began = time.process_time()
        if ask.loras:
            pipe.enable_lora()
            pipe.set_adapters([*ask.loras], [*ask.loras.values()])
        else:
            pipe.disable_lora()
        pipe.scheduler = schedulers[ask.sampler]
        generator = torch.Generator().manual_seed(ask.seed)
        pipe(PROMPT, height=side, width=side, num_inference_steps=ask.steps, guidance_scale=7.0, generator=generator)
        return time.process_time() - began

    return draw


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name, usual in (("requests", 2000), ("connections", 32), ("kills", 0), ("beside", 96), ("side", 128)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--folder", type=Path, help="where LoRAs and the command line's pictures stay for another run")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    told: dict[str, object] = {"command": sys.argv[1:], "threads": os.environ.get("OMP_NUM_THREADS")}
    with tempfile.TemporaryDirectory(prefix="tenshot-load-") as name, ExitStack() as stack:
        faults = _measured(given, given.folder or Path(name), stack, told)
    print(json.dumps(told, indent=1))
    if given.json:
        given.json.write_text(json.dumps(told, indent=1))
    return 1 if faults else 0


def _measured(given: argparse.Namespace, folder: Path, stack: ExitStack, told: dict[str, object]) -> list[str]:
    from tenshot.model.model import find
    from tests.test_adapter_files import a_lora

    loras = folder / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        a_lora(find("pocket"), loras / f"lora{number}.safetensors", seed=number, alpha=1.0)
    expected = drawn_by_the_command_line(given.model, folder, loras, given.side)
    words = (given.model, "--lora_dir", loras, "--max_queue", 10_000)

    def server(kind: type[Running], batch: int) -> Running:
        started = kind(*words, "--batch_size", batch)
        stack.callback(started.stop)
        return started

    ours = server(Running, given.batch_size)
    found = Load(ours, expected, given.connections, given.seed).run(given.requests, True, given.kills)
    told["load"] = found.told()
    print(json.dumps(told["load"]), file=sys.stderr, flush=True)
    faults = [*found.faults, *(f"healed after {each:.0f} s" for each in found.healed if each > HEALED)]
    if len(found.healed) != given.kills:
        faults.append(f"{given.kills} kills, healed after {len(found.healed)}")
    if not given.kills and found.told()["memory_spread_of_the_second_half"] > GROWTH:
        faults.append("memory grows")
    if given.beside:
        told["beside"] = dict(_beside(given, ours, server, expected, loras))
    return faults


def _beside(
    given: argparse.Namespace,
    ours: Running,
    server: Callable[[type[Running], int], Running],
    expected: dict[Ask, np.ndarray],
    loras: Path,
) -> Iterator[tuple[str, object]]:
    from tenshot.model.model import find

    servers = {
        "ours": ours,
        "ours, not batched": server(Running, 1),
        "ours, not grouped": server(Ungrouped, given.batch_size),
    }
    turns: dict[str, list[Found]] = {name: [] for name in servers}
    draw = diffusers_one_at_a_time(find("pocket"), loras, given.side)
    draw(next(iter(expected)))
    alone: list[tuple[float, float]] = []
    dice = random.Random(given.seed)
    for turn in range(2):
        for name, each in servers.items():
            turns[name].append(Load(each, expected, given.connections, turn).run(given.beside // 2, False))
        for ask in dice.choices([*expected], k=given.beside // 8):
            began = time.monotonic()
            cpu = draw(ask)
            alone.append((time.monotonic() - began, cpu))
    for name, found in turns.items():
        yield name, [each.told() for each in found]
    wall, cpu = (sum(each) / len(alone) for each in zip(*alone, strict=True))
    yield "diffusers", {"pictures_per_second": 1 / wall, "cpu_seconds_per_picture": cpu, "pictures": len(alone)}


if __name__ == "__main__":
    sys.exit(main())
