"""What `tenshot plan` is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from tenshot.core.errors import Fault, some
from tenshot.io import destinations
from tenshot.train.subject_options import SubjectOptions

OWN = ("captioned", "sheet.png", "index.html", "plan.json")  # what lies in --out
FITS = "a new folder, or that of an earlier plan"


class PlanOptions(SubjectOptions):
    """See what was understood of your pictures, and what each method of training would take on this machine."""

    subject: str = Field("object", min_length=1, description="the class word of what they show, as in cat")
    out: Path | None = Field(None, description="folder for a page and a sheet of what training will see")

    def obstacles(self) -> Iterator[Fault]:
        if self.out is None:
            return
        if hurdle := destinations.misnamed(self.out) or destinations.obstacle(self.out):
            yield Fault("--out", f"{self.out}: {hurdle}", FITS, "name another folder")
            return
        names = sorted(path.name for path in self.out.iterdir()) if self.out.is_dir() else []
        if strange := [name for name in names if name not in OWN]:
            yield Fault("--out", f"{self.out} holds other files: {some(strange)}", FITS, "name another folder")
