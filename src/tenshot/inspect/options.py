"""What `tenshot inspect` is told."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from tenshot.core.options import Options
from tenshot.option_types import SomeModel


class InspectOptions(Options):
    """Say what a file, a model folder or a picture is: tenshot inspect FILE."""

    words: ClassVar[tuple[str, ...]] = ("file",)

    half_serves: ClassVar[bool] = True

    file: SomeModel = Field(description="a file, a picture, a model folder, pocket, or org/name of the hub")
