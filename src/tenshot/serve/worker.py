"""What draws: a process of its own for each device, so that whatever becomes of it, the server answers and goes on."""

from __future__ import annotations

import gc
import os
import queue
import signal
import threading
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from PIL import Image

from tenshot import pipeline
from tenshot.batch import Batch, Drawing
from tenshot.core import device, distributed
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.families.components import Net
from tenshot.generate import plan
from tenshot.generate.options import GenerateOptions
from tenshot.generate.plan import Plan, Planned
from tenshot.model.latent_rgb import LatentRGB
from tenshot.model.model import Model
from tenshot.runtime.compiled_model import CompiledModel
from tenshot.serve.messages import (
    Draw,
    Drawn,
    Drop,
    Failed,
    Heard,
    Held,
    Load,
    Ready,
    Said,
    Setup,
    Show,
    Shown,
    Step,
    Unfit,
    Unload,
)

READ = 32  # options whose files are kept in mind
NETS = 4  # ControlNets that are kept beside a model


class _Ear(Events):
    """Tells the server what is said."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe

    def say(self, text: str) -> None:
        self.pipe.send(Said(text))


@dataclass(frozen=True)
class _Picture:
    """One under way."""

    options: GenerateOptions
    plan: Plan
    planned: Planned
    drawing: Drawing


class Worker:
    """Draws what it is told, with models that stay in memory. Pictures join the batch at work between two steps.

    given: those that have not joined yet. alone: those that are drawn one by one, after their batch had failed.
    shown: those that somebody wants to see.
    """

    def __init__(self, pipe: Connection, setup: Setup) -> None:
        self.pipe, self.setup = pipe, setup
        self.ear = _Ear(pipe)
        self.inbox: queue.SimpleQueue[Heard | None] = queue.SimpleQueue()
        self.given: dict[int, GenerateOptions] = {}
        self.under_way: dict[int, _Picture] = {}
        self.alone: set[int] = set()
        self.shown: frozenset[int] = frozenset()
        self.batch: Batch | None = None
        self.weights: tuple[CompiledModel, object] | None = None  # the batch's: a model and the LoRAs in it
        self.models: OrderedDict[tuple[Path, object], CompiledModel] = OrderedDict()
        self.loras: dict[object, object] = {}
        self.previews: dict[object, LatentRGB] = {}
        self.nets: dict[object, dict[str, Net]] = {}  # ControlNets, by the model that they are beside
        self.read: OrderedDict[str, plan.Read] = OrderedDict()

    def listen(self) -> None:
        """What comes during a step counts from the next one on."""
        told: Heard | None
        while True:
            try:
                told = self.pipe.recv()
            except EOFError:
                told = None
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
        self.tell_held()
        while self.hear():
            self.turn()

    def hear(self) -> bool:
        """Take all that has come; wait for it where there is nothing to draw. False: it is to end."""
        while not self.inbox.empty() or not (self.given or self.under_way):
            match self.inbox.get():
                case None:
                    return False
                case Draw(pictures):
                    self.given |= pictures
                case Drop(numbers):
                    for number in numbers:
                        self.leave(number)
                case Show(numbers):
                    self.shown |= numbers
                case asked:
                    self.keep(asked)
                    self.tell_held()
        return True

    def turn(self) -> None:
        """One step of all that is drawn."""
        self.join()
        self.step()
        if not self.under_way:
            self.batch = self.weights = None

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
        (picture,) = planned.pictures
        self.put(planned.opened, {})
        pipeline.images(planned.opened, [picture.request], planned.settings)

    def leave(self, number: int) -> None:
        """Nobody wants it any more."""
        self.given.pop(number, None)
        self.alone.discard(number)
        if (picture := self.under_way.pop(number, None)) and self.batch:
            self.batch.leave(picture.drawing)

    def join(self) -> None:
        """In their order, as long as they have the weights of the batch at work."""
        for number, options in [*self.given.items()]:
            if self.under_way and not self.alone.isdisjoint({number, *self.under_way}):
                return
            try:
                planned = self.planned(options)
                (picture,) = planned.pictures
                if (batch := self.batch_for(planned, picture)) is None:
                    return
                (drawing,) = batch.join([picture.request], planned.settings)
                self.under_way[number] = _Picture(options, planned, picture, drawing)
            except Exception as error:
                self.failed(number, error)
            del self.given[number]

    def batch_for(self, planned: Plan, picture: Planned) -> Batch | None:
        """The batch at work, or a new one where there is none; None where that has other weights."""
        opened, given = planned.opened, planned.found.given
        weights = (opened, given.strengths(picture.tags) if given else {})
        if self.batch and self.weights and self.weights[0] is opened and self.weights[1] == weights[1]:
            return self.batch
        if self.under_way:
            return None
        self.put(*weights)
        self.batch, self.weights = Batch(opened), weights
        return self.batch

    def put(self, opened: CompiledModel, loras: Mapping[str | Path, tuple[float, float]]) -> None:
        """Have these LoRAs in a model, and no others."""
        if self.loras.get(id(opened), {}) != loras:
            self.loras.pop(id(opened), None)
            opened.set_loras(loras)
            self.loras[id(opened)] = loras

    def step(self) -> None:
        """Where a batch fails, each of it is drawn alone, so that none fails for another's sake."""
        if self.batch is None:
            return
        try:
            self.batch.step()
        except Exception as error:
            if len(self.under_way) == 1:
                self.failed(next(iter(self.under_way)), error)
            else:
                self.alone |= self.under_way.keys()
                self.given = {number: each.options for number, each in self.under_way.items()} | self.given
            self.under_way = {}
            device.empty_cache()
            return
        drawings = {number: each.drawing for number, each in self.under_way.items()}
        self.pipe.send(Step({number: (each.done, each.total) for number, each in drawings.items()}))
        self.show()
        for number in [number for number, each in drawings.items() if each.over]:
            self.finish(number, self.under_way.pop(number), self.batch.model)

    def show(self) -> None:
        """Pictures at work, roughly, where anybody asked."""
        for number in self.shown & self.under_way.keys():
            each = self.under_way[number]
            opened = each.plan.opened
            if id(opened) not in self.previews:
                self.previews[id(opened)] = LatentRGB.fitted(opened)
            (image,) = self.previews[id(opened)](each.drawing.clean(opened))
            larger = image.resize(each.plan.settings.size_for(opened).pillow, Image.Resampling.BICUBIC)
            self.pipe.send(Shown(number, larger.size, larger.tobytes()))
        self.shown = frozenset()

    def finish(self, number: int, each: _Picture, model: Model) -> None:
        """The others wait for it; those that take its place are on their way meanwhile."""
        self.alone.discard(number)
        try:
            (image,) = pipeline.decode(model, each.drawing.latents)
            finished, text = each.plan.finished(each.planned, image)
            maps = [(shown.size, shown.tobytes()) for shown in each.planned.request.control]
            self.pipe.send(Drawn(number, finished.size, finished.tobytes(), text, maps))
        except Exception as error:
            self.failed(number, error)
        self.tell_held()

    def tell_held(self) -> None:
        self.pipe.send(Held(len(self.models), device.max_memory_allocated()))

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
        for beside in (self.loras, self.previews, self.nets):
            beside.pop(id(gone), None)
        del gone
        gc.collect()  # nets hold one another in circles
        device.empty_cache()

    def failed(self, number: int, error: Exception) -> None:
        self.alone.discard(number)
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
