"""What every verb is told whose result user interfaces can load."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from tenshot.errors import Fault
from tenshot.export import places
from tenshot.options import Options


class ExportOptions(Options):
    """Handing over."""

    export: list[str] = Field(
        [], description="webui:DIR or comfyui:DIR: put the result where that user interface looks for it, too"
    )

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        yield from places.faults(self.export, [])
