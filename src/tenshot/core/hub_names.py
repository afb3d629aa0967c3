"""Names of the Hugging Face hub: org/name, org/name@revision, org/name:file; and whose a file in its cache is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_REPOSITORY = r"[A-Za-z0-9_](?:[\w.-]{0,94}[\w])?/[A-Za-z0-9_](?:[\w.-]{0,94}[\w])?"
_NAME = re.compile(rf"({_REPOSITORY})(?:@([^:@]*))?(?::(.*))?", re.ASCII | re.DOTALL)
_CACHED = re.compile(r"(?:.*/)?models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})(?:/([^=]*))?(=.*)?")
COMMIT = re.compile("[0-9a-f]{40}")
Kind = Literal[
    "model", "net", "transformers", "lora", "word", "any"
]  #: what of a repository is wanted; any: all it holds
#: Suffixes of files with weights. A repository's name that ends in one is a path that is not there.
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
FORMS = "org/name of the Hugging Face hub, org/name@revision, or org/name:file.safetensors"


@dataclass(frozen=True)
class HubName:
    """revision: a branch, a tag or a commit. inner: a file or folder within; empty: the whole."""

    repository: str
    revision: str = "main"
    inner: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision != "main" else ""
        return self.repository + revision + (f":{self.inner}" if self.inner else "")

    @property
    def title(self) -> str:
        """The repository's name without its owner's."""
        return self.repository.partition("/")[2]

    @property
    def odd(self) -> str:
        """What no name within a repository has, in words; empty where all is well."""
        if not is_plain(self.revision):
            return f"@{self.revision} is no name of a revision"
        return f":{self.inner} is no path within a repository" if self.inner and not is_plain(self.inner) else ""


def is_plain(path: str) -> bool:
    """Does a path with slashes stay below where it begins, on every system?"""
    return not re.search(r'[\\:*?"<>|\x00-\x1f\x7f]', path) and not {"", ".", ".."} & {*path.split("/")}


def parse(text: str | Path) -> HubName | None:
    """The name that a text is, though it may be odd; None where it is a path and nothing else."""
    text = text.as_posix() if isinstance(text, Path) else text
    match = _NAME.fullmatch(text)
    if not match or "--" in match[1] or ".." in match[1] or match[1].endswith(".git"):
        return None
    if match[2] is None and match[3] is None and match[1].endswith(WEIGHTS):
        return None
    return HubName(match[1], match[2] or "main", match[3] or "")


def of_path(path: str | Path) -> HubName | None:
    """Which repository's file or folder a path in the hub's cache is, at which commit; None for other paths."""
    match = _CACHED.fullmatch(path.as_posix() if isinstance(path, Path) else path)
    return HubName(f"{match[1]}/{match[2]}", match[3], match[4] or "") if match else None


def spelled(value: str) -> str:
    """A value that names a path in the hub's cache, as one would type it; another one as it is."""
    found, match = of_path(value), _CACHED.fullmatch(value)
    return f"{found}{match[5] or ''}" if found and match else value


def called(place: Path) -> str:
    """What people call a file or folder: by its name; in the hub's cache a repository's folder has a commit's."""
    found = of_path(place)
    return (found.inner.rpartition("/")[2] or found.title) if found else place.resolve().name
