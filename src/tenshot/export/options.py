"""What every verb is told whose result user interfaces can load."""

from __future__ import annotations

from pydantic import Field

from tenshot.options import Options


class ExportOptions(Options):
    """Handing over."""

    export: list[str] = Field(
        [], description="webui:DIR or comfyui:DIR: put the result where that user interface looks for it, too"
    )
