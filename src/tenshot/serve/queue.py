"""Who is drawn next: pictures of all requests in fair order, joined into batches of one kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tenshot.core.errors import Fault, Refusal
from tenshot.generate.options import GenerateOptions

PATIENCE = 4  #: batches of pictures that may begin before one whose turn was earlier


class Full(Refusal):
    """No more is taken for now."""


@dataclass(frozen=True)
class Kind:
    """What the pictures of one batch share. weights: the model and its LoRAs. size: of the pictures."""

    weights: str
    size: str


@dataclass(eq=False)
class Row:
    """One picture of a request. tag: when its turn is, in fair order. passed: pictures that began before it since."""

    number: int
    request: str
    caller: str
    options: GenerateOptions
    priority: int = 0
    tag: float = 0.0
    passed: int = 0

    def __post_init__(self) -> None:
        self.kind = _kind(self.options)


def _kind(options: GenerateOptions) -> Kind:
    tags = sorted((each.name, each.text_encoder, each.denoiser) for each in options.tags)
    weights = repr((options.model, options.vae, options.lora, tags))
    sized = options.width is not None and options.height is not None
    begun = None if sized else options.init_image  # whose shape may say the size
    return Kind(weights, repr((options.width, options.height, options.hires_scale, begun)))


class Queue:
    """Pictures that wait. Callers take turns, picture by picture, however many each of them asked for.

    most: pictures that may wait. batch: that are drawn at once.
    """

    def __init__(self, most: int, batch: int) -> None:
        self.most, self.batch = most, batch
        self.rows: list[Row] = []
        self._now = 0.0  # the tag of the last that was drawn
        self._next: dict[str, float] = {}  # by caller, after the last that it asked for

    def put(self, rows: Sequence[Row]) -> None:
        """Raises Full where they do not all fit."""
        if len(self.rows) + len(rows) > self.most:
            found = f"{len(self.rows)} pictures wait, and {len(rows)} more are asked for"
            raise Full(Fault("queue", found, f"{self.most} at most", "ask again in a while"))
        for row in rows:
            row.tag = max(self._now, self._next.get(row.caller, 0.0))
            self._next[row.caller] = row.tag + 1
        self.rows += rows

    def take(self, loaded: str = "") -> list[Row]:
        """The next batch. loaded: the weights in memory, whose pictures may come first for a while."""
        self.rows.sort(key=_turn)
        ready = [row.kind for row in self.rows if row.kind.weights == loaded]
        kinds = dict.fromkeys([*ready, *(row.kind for row in self.rows[:1])])
        return next((batch for kind in kinds if (batch := self.join(kind, self.batch))), [])

    def join(self, kind: Kind, room: int) -> list[Row]:
        """Those that may join a batch of a kind which is at work and has room for so many more."""
        self.rows.sort(key=_turn)
        batch = self._may_begin(kind)[:room]
        if not batch:
            return []
        taken, behind = {*batch}, 0
        for row in reversed(self.rows):
            behind += row in taken
            row.passed += behind
        self.rows = [row for row in self.rows if row not in taken]
        self._now = max(self._now, min(row.tag for row in batch))
        self._next = {caller: after for caller, after in self._next.items() if after > self._now}
        return batch

    def _may_begin(self, kind: Kind) -> list[Row]:
        """Those of a kind, as far as they pass nobody who is more urgent, or has been passed often enough."""
        found: list[Row] = []
        urgent = None
        for row in self.rows:
            if row.kind == kind and (urgent is None or row.priority == urgent):
                found.append(row)
            elif row.kind != kind:
                urgent = row.priority if urgent is None else urgent
                if row.passed >= PATIENCE * self.batch:
                    break
        return found

    def drop(self, rows: Iterable[Row]) -> None:
        """Let them go that are no longer wanted."""
        gone = {*rows}
        self.rows = [row for row in self.rows if row not in gone]

    def before(self, rows: Iterable[Row]) -> int:
        """How many pictures come before the first of these."""
        wanted = {*rows}
        return next((number for number, row in enumerate(sorted(self.rows, key=_turn)) if row in wanted), 0)


def _turn(row: Row) -> tuple[int, float]:
    """Of equal ones the first that came."""
    return -row.priority, row.tag
