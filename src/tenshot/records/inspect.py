"""What `tenshot inspect` is told."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tenshot.options import Options
from tenshot.records.kinds import SomePath


class InspectOptions(Options):
    """Say what a file or a model folder is: tenshot inspect FILE."""

    words: ClassVar[tuple[str, ...]] = ("file",)

    file: SomePath = Field(description="a file, or a model folder")
