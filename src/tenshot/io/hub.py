"""The Hugging Face hub: what a repository holds, and its files, fetched into the cache that huggingface_hub keeps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import huggingface_hub
from huggingface_hub import constants, errors, utils

from tenshot.core.errors import Cancelled, Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.hub_names import COMMIT, HubName, is_plain
from tenshot.io import hashes, locks, tensors

MEGABYTE = 1_000_000
TRIES = 5  # without a byte between them
MEND = "what is there already is kept: the same command goes on from there"

if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
    utils.disable_progress_bars()  # progress is told by events


@dataclass(frozen=True)
class Entry:
    """A file of a repository. sha256: of a large one; the small ones have none."""

    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Repository:
    """At one commit. files: all of them, by path. away: why it could not be asked; its files are the cache's then."""

    name: HubName
    commit: str
    files: Mapping[str, Entry]
    away: str = ""

    @property
    def home(self) -> Path:
        return _home(self.name)

    @property
    def folder(self) -> Path:
        """Where its files lie once they are fetched."""
        return self.home / "snapshots" / self.commit

    def missing(self, files: Iterable[str]) -> list[str]:
        return [file for file in files if not (self.folder / file).is_file()]


def look(name: HubName, where: str) -> Repository:
    """What a repository holds; where it cannot be asked, what of it the cache has.

    where: who named it, for a refusal. Raises Refusal where there is no such repository or revision.
    """
    try:
        told = huggingface_hub.HfApi().model_info(
            name.repository, revision=name.revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        files = {
            each.rfilename: Entry(each.size or 0, each.lfs.sha256 if each.lfs else "")
            for each in told.siblings or ()
            if is_plain(each.rfilename)
        }
        if not COMMIT.fullmatch(told.sha or ""):
            raise ValueError(f"the answer names no commit, but {told.sha!r}")
        return Repository(name, str(told.sha), files)
    except errors.RevisionNotFoundError:
        found, fits = f"{name}: there is no revision {name.revision}", "a branch, a tag or a commit of it"
        raise Refusal(Fault(where, found, fits, f"{_page(name)}/tree/main lists them")) from None
    except Exception as error:  # it has many ways to say so, and so has the network
        if known := kept(name):
            return Repository(name, *known, away=_reason(error))
        raise Refusal(hurdle(name, where, error)) from None


def hurdle(name: HubName, where: str, error: Exception) -> Fault:
    """Why a repository cannot be had, and what is to be done."""
    token = f"set HF_TOKEN to a token of yours, from {constants.ENDPOINT}/settings/tokens (hf auth login keeps it)"
    fits, found = "a repository that you may read, a folder, or a file", f"{name}: no such file or folder here, and "
    if isinstance(error, errors.GatedRepoError):
        found = f"{name}: its owner shares it with those who agreed to conditions, and nothing says that you did"
        return Fault(where, found, fits, f"agree at {_page(name)}, and {token}")
    found += _reason(error)
    if isinstance(error, errors.RepositoryNotFoundError):
        return Fault(where, found, fits, f"correct the name; where it is private, {token}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        kept = f"{found}, and {constants.HF_HUB_CACHE} has none of it"
        return Fault(where, kept, "what is here already", "HF_HUB_OFFLINE=0 lets it be fetched")
    if _status(error) in (401, 403):
        return Fault(where, f"{found}: this token may not read it, or is none", fits, token)
    return Fault(where, found, "a network, a folder, or a file", f"try again later: {MEND}")


def _status(error: Exception) -> int:
    return error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0


def _reason(error: Exception) -> str:
    """Why the hub does not tell, in words."""
    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{constants.ENDPOINT} shows no repository of that name"
    if status := _status(error):
        return f"{constants.ENDPOINT} answers {status}"
    said = str(error).strip().partition("\n")[0][:200] or type(error).__name__
    return f"{constants.ENDPOINT} cannot be reached ({said})"


def admitted(repository: Repository, files: Iterable[str], where: str) -> None:
    """Raises Refusal where the files that are not here yet may not be read, or find no room."""
    missing = repository.missing(files)
    if not missing:
        return
    if repository.away:
        found = f"{repository.name}: {repository.away}, and the cache lacks {', '.join(missing[:3])}"
        raise Refusal(Fault(where, found, "all its files", "try again with a network, HF_HUB_OFFLINE=0"))
    try:
        url = huggingface_hub.hf_hub_url(repository.name.repository, missing[0], revision=repository.commit)
        huggingface_hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:
        raise Refusal(hurdle(repository.name, where, error)) from None
    there = next(each for each in (repository.home, *repository.home.parents) if each.exists())
    wanted, free = sum(repository.files[file].size for file in missing), shutil.disk_usage(there).free
    if wanted > free:
        found = f"{repository.name}: {wanted:,} bytes to fetch, and {there} has room for {free:,}"
        raise Refusal(Fault(where, found, "a disk with room for it", "make room, or set HF_HOME to another disk"))


def fetch(repository: Repository, files: Iterable[str], where: str, events: Events) -> None:
    """Fetch what is not here yet of `files`; large ones go on where they stopped. Raises Refusal, Cancelled."""
    missing, name = repository.missing(files), repository.name
    if not missing:
        _remember(repository)
        return
    sizes = {file: repository.files[file].size for file in missing}
    total = -(-sum(sizes.values()) // MEGABYTE)
    events.say(f"{name}: fetching {len(missing)} files, {total:,} MB, into {repository.home}")
    events.begin(f"fetching {name.repository}", total)
    done = 0
    try:
        with locks.alone(Path(constants.HF_HUB_CACHE) / ".locks" / repository.home.name):
            for file, size in sorted(sizes.items(), key=lambda each: each[1]):
                before = done

                def told(have: int, before: int = before) -> None:
                    events.advance((before + have) // MEGABYTE)
                    if events.cancelled():
                        raise Cancelled(f"stopped while fetching {name}; {MEND}")

                if repository.files[file].sha256:
                    _large(repository, file, where, told)
                huggingface_hub.hf_hub_download(name.repository, file, revision=repository.commit)
                done += size
                told(0, done)
        _remember(repository)
    except (Refusal, Cancelled):
        raise
    except OSError as error:
        if not isinstance(error, errors.HfHubHTTPError):
            raise
        raise Refusal(hurdle(name, where, error)) from error
    except Exception as error:
        raise Refusal(hurdle(name, where, error)) from error
    finally:
        events.end()


def _large(repository: Repository, file: str, where: str, told: Callable[[int], None]) -> None:
    """A large file's content, where huggingface_hub looks for it; that itself would begin anew each time."""
    entry = repository.files[file]
    target = repository.home / "blobs" / entry.sha256
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.incomplete")
    url = huggingface_hub.hf_hub_url(repository.name.repository, file, revision=repository.commit)
    with part.open("ab", buffering=0) as content:
        for have in _streamed(url, content, entry.size):
            told(have)
    if hashes.of_file(part) != entry.sha256:
        part.unlink()
        found, fits = f"{repository.name}: {file} came over damaged", f"the SHA-256 {entry.sha256}"
        raise Refusal(Fault(where, found, fits, "the same command fetches it again"))
    part.replace(target)


def _streamed(url: str, content: BinaryIO, size: int) -> Iterator[int]:
    """Append to `content` until it has `size` bytes; how many there are, now and then."""
    headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
    tries = 0
    while (have := content.tell()) < size:
        try:
            asked = {**headers, "Range": f"bytes={have}-"}
            answer = utils.http_stream_backoff(
                "GET", url, headers=asked, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()
            )
            with answer as response:
                utils.hf_raise_for_status(response)
                if response.status_code != 206:
                    content.truncate(0)
                for chunk in response.iter_bytes():
                    content.write(chunk)
                    yield content.tell()
        except (OSError, Cancelled):
            raise
        except Exception:  # the network's, as whichever library tells them
            tries = 0 if content.tell() > have else tries + 1
            if tries >= TRIES:
                raise
            time.sleep(1)


def _remember(repository: Repository) -> None:
    """Which commit a branch or tag is, as huggingface_hub notes it: that is how it is found without a network."""
    name = repository.name
    note = repository.home / "refs" / name.revision
    if repository.away or name.revision == repository.commit:
        return
    if not note.is_file() or note.read_text() != repository.commit:
        note.parent.mkdir(parents=True, exist_ok=True)
        tensors.write_text(note, repository.commit)


def kept(name: HubName) -> tuple[str, dict[str, Entry]] | None:
    """The commit and the files that the cache has; None where it has nothing of it."""
    note = _home(name) / "refs" / name.revision
    commit = note.read_text().strip() if note.is_file() else name.revision
    folder = _home(name) / "snapshots" / commit
    if not COMMIT.fullmatch(commit) or not folder.is_dir():
        return None
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return commit, {file: Entry(path.stat().st_size) for file, path in files.items()}


def _home(name: HubName) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{name.repository.replace('/', '--')}"


def _page(name: HubName) -> str:
    return f"{constants.ENDPOINT}/{name.repository}"
