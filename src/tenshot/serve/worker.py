"""What draws: a process of its own for each device, so that whatever becomes of it, the server answers and goes on."""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import traceback
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from tenshot import pipeline
from tenshot.core import device, distributed
from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.events import Events
from tenshot.families.components import Net
from tenshot.generate import plan
from tenshot.generate.options import GenerateOptions
from tenshot.generate.plan import Plan, Planned
from tenshot.runtime.compiled_model import CompiledModel

READ = 32  # options whose files are kept in mind
NETS = 4  # ControlNets that are kept beside a model


@dataclass(frozen=True)
class Setup:
    """warm: a picture of each model, drawn before anything is. models: how many are kept in memory.

    most: bytes in use above which all but the one at work leave; None: as many as there are.
    """

    device: str
    warm: Sequence[GenerateOptions]
    models: int
    most: int | None = None


# What it is told: Draw, Load, Unload, Drop, Show; None: to end.
@dataclass(frozen=True)
class Draw:
    """pictures: by number, each asked for by options of its own; all of one kind."""

    pictures: dict[int, GenerateOptions]


@dataclass(frozen=True)
class Load:
    """Have the model of a picture in memory, as if it had been drawn."""

    warm: GenerateOptions


@dataclass(frozen=True)
class Unload:
    """Let the model of a picture go; who asks for it has it loaded again."""

    warm: GenerateOptions


@dataclass(frozen=True)
class Drop:
    numbers: frozenset[int]


@dataclass(frozen=True)
class Show:
    """Tell what the pictures at work look like after the next step."""


# What it tells.
@dataclass(frozen=True)
class Ready:
    device: str


@dataclass(frozen=True)
class Step:
    """Of the pictures that are drawn now."""

    numbers: tuple[int, ...]
    done: int
    steps: int


@dataclass(frozen=True)
class Shown:
    """A picture at work, roughly."""

    number: int
    size: tuple[int, int]
    pixels: bytes


@dataclass(frozen=True)
class Drawn:
    """maps: what its ControlNets saw, in RGB of that size."""

    number: int
    size: tuple[int, int]
    pixels: bytes
    infotext: str
    maps: Sequence[tuple[tuple[int, int], bytes]] = ()


@dataclass(frozen=True)
class Failed:
    """faults: what was wrong with what was asked; without any it was nobody's fault who asked."""

    number: int
    faults: tuple[Fault, ...]
    why: str = ""


@dataclass(frozen=True)
class Said:
    text: str


@dataclass(frozen=True)
class Idle:
    """It waits for more. memory: the most that it used, bytes."""

    memory: int


@dataclass(frozen=True)
class Held:
    """models: in memory now."""

    models: int


@dataclass(frozen=True)
class Unfit:
    """It cannot begin at all."""

    faults: tuple[Fault, ...]


Heard: TypeAlias = Draw | Load | Unload | Drop | Show
Told: TypeAlias = Ready | Step | Shown | Drawn | Failed | Said | Idle | Held | Unfit


class _Ear(Events):
    """Tells the server about the batch at work. wanted: those of it that nobody has dropped."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.dropped = pipe, set[int]()
        self.numbers: tuple[int, ...] = ()
        self.steps = 0
        self.show = False
        self.size = (0, 0)

    def say(self, text: str) -> None:
        self.pipe.send(Said(text))

    def begin(self, job: str, total: int, done: int = 0) -> None:
        self.steps = total

    def advance(self, done: int, **figures: float) -> None:
        if self.numbers:
            self.pipe.send(Step(self.numbers, done, self.steps))

    def watches(self, done: int) -> bool:
        return self.show and bool(self.numbers)

    def drawing(self, done: int, total: int, images: Sequence[Image.Image]) -> None:
        self.show = False
        for number, image in zip(self.numbers, images, strict=True):
            larger = image.resize(self.size, Image.Resampling.BICUBIC)
            self.pipe.send(Shown(number, larger.size, larger.tobytes()))

    def cancelled(self) -> bool:
        return bool(self.numbers) and self.dropped.issuperset(self.numbers)


class Worker:
    """Draws what it is told, one batch after the other, with models that stay in memory."""

    def __init__(self, pipe: Connection, setup: Setup) -> None:
        self.pipe, self.setup = pipe, setup
        self.ear = _Ear(pipe)
        self.inbox: queue.SimpleQueue[Draw | Load | Unload | None] = queue.SimpleQueue()
        self.models: OrderedDict[tuple[Path, object], CompiledModel] = OrderedDict()
        self.loras: dict[object, object] = {}
        self.nets: dict[object, dict[str, Net]] = {}  # ControlNets, by the model that they are beside
        self.read: OrderedDict[str, plan.Read] = OrderedDict()

    def listen(self) -> None:
        """What comes while a batch is drawn can drop it."""
        while True:
            try:
                told = self.pipe.recv()
            except EOFError:
                told = None
            if isinstance(told, Drop):
                self.ear.dropped.update(told.numbers)
            elif isinstance(told, Show):
                self.ear.show = True
            else:
                self.inbox.put(told)
            if told is None:
                return

    def run(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        try:
            for options in self.setup.warm:
                self.load(options)
        except Refusal as refusal:
            self.pipe.send(Unfit(refusal.faults))
            return
        self.pipe.send(Ready(self.setup.device))
        self.pipe.send(Held(len(self.models)))
        while (asked := self.inbox.get()) is not None:
            if isinstance(asked, Draw):
                self.draw(asked)
                self.pipe.send(Idle(device.max_memory_allocated()))
            else:
                self.keep(asked)
            self.pipe.send(Held(len(self.models)))

    def keep(self, asked: Load | Unload) -> None:
        """Whether it is in memory changes no picture: where that fails, who draws next is told why."""
        try:
            if isinstance(asked, Load):
                self.load(asked.warm)
            else:
                place = self.found(asked.warm).place
                for key in [each for each in self.models if each[0] == place]:
                    self.forget(key)
        except Exception as error:
            self.ear.say("".join(traceback.format_exception_only(error)).rstrip())

    def load(self, options: GenerateOptions) -> None:
        planned = self.planned(options)
        self.images([(0, planned, planned.pictures[0])])

    def draw(self, asked: Draw) -> None:
        ready: list[tuple[int, Plan, Planned]] = []
        for number, options in asked.pictures.items():
            if number not in self.ear.dropped:
                try:
                    planned = self.planned(options)
                    ready.append((number, planned, planned.pictures[0]))
                except Exception as error:
                    self.failed(number, error)
        for _, group in groupby(ready, lambda each: each[1].settings):  # of one kind they are equal
            self.drawn([*group])
        last = max(asked.pictures)  # numbers rise
        self.ear.dropped.difference_update([number for number in [*self.ear.dropped] if number <= last])

    def drawn(self, batch: Sequence[tuple[int, Plan, Planned]]) -> None:
        """Where a batch fails, each is drawn alone, so that none fails for another's sake."""
        try:
            for (number, planned, picture), image in zip(batch, self.images(batch), strict=True):
                finished, text = planned.finished(picture, image)
                maps = [(each.size, each.tobytes()) for each in picture.request.control]
                self.pipe.send(Drawn(number, finished.size, finished.tobytes(), text, maps))
        except Cancelled:
            return
        except Exception as error:
            if len(batch) == 1:
                self.failed(batch[0][0], error)
                return
            for each in batch:
                self.drawn([each])

    def images(self, batch: Sequence[tuple[int, Plan, Planned]]) -> list[Image.Image]:
        _, first, picture = batch[0]
        opened = first.opened
        given = first.found.given
        wanted = given.strengths(picture.tags) if given else {}
        if self.loras.get(id(opened), {}) != wanted:
            self.loras.pop(id(opened), None)
            opened.set_loras(wanted)
            self.loras[id(opened)] = wanted
        self.ear.size, self.ear.show = first.settings.size_for(opened).pillow, False
        self.ear.numbers = tuple(number for number, *_ in batch if number)  # 0: nobody waits for it
        try:
            requests = [each.request for *_, each in batch]
            return pipeline.images(opened, requests, first.settings, self.ear)
        finally:
            self.ear.numbers = ()

    def planned(self, options: GenerateOptions) -> Plan:
        found = self.found(options)
        opened = self.opened(found)
        nets = self.nets.setdefault(id(opened), {})
        wanted = {each.asked.place for each in found.controls}
        for place in [each for each in nets if each not in wanted][: max(0, len(nets.keys() | wanted) - NETS)]:
            del nets[place]
        planned = found.planned(opened, Events(), nets)  # what has no effect is nothing for the server's log
        self.make_room()
        return planned

    def found(self, options: GenerateOptions) -> plan.Read:
        """Its files are looked at once for all pictures of a request."""
        options = options.model_copy(update={"device": self.setup.device})
        key = options.model_copy(update={"seed": 0, "variation_seed": 0}).model_dump_json()
        if key not in self.read:
            self.read[key] = plan.read(options, self.ear)
        self.read.move_to_end(key)
        while len(self.read) > READ:
            self.read.popitem(last=False)
        return replace(self.read[key], options=options)

    def opened(self, found: plan.Read) -> CompiledModel:
        """The model in memory; the one that was not used for longest makes room."""
        words = tuple((each.word, each.file) for each in found.given.words) if found.given else ()
        key = (found.place, words)
        if key not in self.models:
            while len(self.models) >= self.setup.models:
                self.forget(next(iter(self.models)))
            self.models[key] = found.load(self.ear)
        self.models.move_to_end(key)
        return self.models[key]

    def make_room(self) -> None:
        """The model at work stays, whatever it takes."""
        while self.setup.most and len(self.models) > 1 and device.memory_allocated() > self.setup.most:
            self.forget(next(iter(self.models)))

    def forget(self, key: tuple[Path, object]) -> None:
        gone = self.models.pop(key)
        self.loras.pop(id(gone), None)
        self.nets.pop(id(gone), None)
        del gone
        gc.collect()  # nets hold one another in circles
        device.empty_cache()

    def failed(self, number: int, error: Exception) -> None:
        if isinstance(error, Refusal):
            self.pipe.send(Failed(number, error.faults))
            return
        if device.out_of_memory(error):
            self.pipe.send(Failed(number, (), "out of memory: ask for smaller pictures, or start with --batch_size 1"))
            return
        self.pipe.send(Said("".join(traceback.format_exception(error)).rstrip()))
        self.pipe.send(Failed(number, (), "it failed unexpectedly; the server's log says how"))


def work(pipe: Connection, setup: Setup) -> None:
    """The process. It ends with the server's, and never prints between a result and its reader."""
    distributed.tie()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the server's to hear
    os.dup2(2, 1)
    Worker(pipe, setup).run()
