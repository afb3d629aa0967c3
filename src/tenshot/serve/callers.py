"""Whose a request is: progress, interrupt, and the model that was chosen are the caller's own, and nobody else's."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tenshot.serve import safety
from tenshot.serve.engine import Ticket

if TYPE_CHECKING:
    from starlette.requests import Request

MOST = 1000  # that are remembered


@dataclass
class Caller:
    """settings: that it chose by POST options. tickets: its requests at work, by task id."""

    name: str
    settings: dict[str, object] = field(default_factory=dict)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    last: Ticket | None = None

    def at_work(self) -> list[Ticket]:
        return [each for each in self.tickets.values() if not each.over]


class Callers:
    def __init__(self) -> None:
        self._known: OrderedDict[str, Caller] = OrderedDict()

    def of(self, request: Request) -> Caller:
        """By address, user name, and what program it says it is: a poll comes by another connection than a prompt."""
        address = request.client.host if request.client else ""
        name = repr((address, safety.user(request.headers), request.headers.get("user-agent", "")))
        found = self._known.setdefault(name, Caller(name))
        self._known.move_to_end(name)
        idle = (each for each, caller in self._known.items() if not caller.tickets and each != name)
        while len(self._known) > MOST and (oldest := next(idle, None)):
            del self._known[oldest]
        return found
