"""What every verb is told whose result user interfaces can load."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from tenshot.core.errors import Fault
from tenshot.core.options import Options
from tenshot.export import ui_folders


class ExportOptions(Options):
    """Handing over."""

    export: list[str] = Field(
        [], description="webui:DIR or comfyui:DIR: put the result where that user interface looks for it, too"
    )

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        yield from ui_folders.faults(self.export, [])
