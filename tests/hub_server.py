"""A server on this machine that speaks the Hugging Face hub's protocol, as huggingface_hub asks for it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

LARGE = 20_000  # bytes from which a file is kept as the hub keeps large ones: by its SHA-256, elsewhere
TOKEN = "hf_of_one_who_agreed"


@dataclass
class Kept:
    """A repository: its commits, by what they are called. gated: only TOKEN may read its files; private: see it."""

    commits: dict[str, dict[str, bytes]]
    revisions: dict[str, str]
    gated: bool = False
    private: bool = False


@dataclass
class Hub:
    """asked: every request, as (method, path, headers). cut: path -> bytes after which its next answers break off.

    hangs: path -> bytes after which its answer waits for `go_on`. false: paths with other content than they should
    have. status: what every request is answered instead.
    """

    port: int = 0
    repositories: dict[str, Kept] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)
    cut: dict[str, list[int]] = field(default_factory=dict)
    hangs: dict[str, int] = field(default_factory=dict)
    go_on: Event = field(default_factory=Event)
    false: set[str] = field(default_factory=set)
    status: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, content: Path | Mapping[str, bytes], revision: str = "main", **about: bool) -> str:
        """A commit of a repository, which `revision` is from now on. Its hash comes back."""
        if isinstance(content, Path):
            paths = [path for path in content.rglob("*") if path.is_file()]
            content = {path.relative_to(content).as_posix(): path.read_bytes() for path in paths}
        digests = sorted((path, hashlib.sha256(data).hexdigest()) for path, data in content.items())
        commit = hashlib.sha1(repr(digests).encode()).hexdigest()
        kept = self.repositories.setdefault(name, Kept({}, {}, **about))
        kept.commits[commit] = dict(content)
        kept.revisions[revision] = commit
        return commit

    def ranges(self, path: str) -> list[str]:
        """From where on the content of a large file was asked for, each time."""
        larger = ((asked, about) for _, asked, about in self.asked if asked.startswith("/elsewhere/"))
        return [about.get("Range", "") for asked, about in larger if asked.endswith(path)]

    def fetched(self) -> list[str]:
        """The paths whose content was asked for."""
        got = (path for method, path, _ in self.asked if method == "GET")
        found = (re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", path) for path in got)
        return sorted({match[1] for match in found if match})


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, dict(self.headers)))
        if self.hub.status:
            self._refuse(self.hub.status, "")
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([0-9a-f]{40})", path):
            self._tree(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._about(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40}|[^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        elif match := re.fullmatch(r"/elsewhere/([0-9a-f]{64})/(.*)", path):
            self._content(match[1], match[2])
        else:
            self._refuse(404, "")

    def _about(self, name: str, revision: str) -> None:
        kept, commit = self._commit(name, revision)
        if kept is None or commit is None:
            return
        files = [
            {
                "rfilename": path,
                "size": len(data),
                "blobId": _blob(data),
                **({"lfs": {"sha256": _sha(data), "size": len(data), "pointerSize": 134}} if len(data) > LARGE else {}),
            }
            for path, data in kept.commits[commit].items()
        ]
        told = {"id": name, "sha": commit, "private": kept.private, "gated": "manual" if kept.gated else False}
        self._send(200, json.dumps({**told, "tags": [], "siblings": files}).encode(), {"X-Repo-Commit": commit})

    def _tree(self, name: str, revision: str) -> None:
        kept, commit = self._commit(name, revision)
        if kept is None or commit is None:
            return
        files = []
        for path, data in kept.commits[commit].items():
            large = {"lfs": {"oid": _sha(data), "size": len(data), "pointerSize": 134}} if len(data) > LARGE else {}
            files.append({"type": "file", "path": path, "size": len(data), "oid": _blob(data), **large})
        self._send(200, json.dumps(files).encode(), {})

    def _file(self, name: str, revision: str, path: str) -> None:
        kept, commit = self._commit(name, revision)
        if kept is None or commit is None:
            return
        if kept.gated and not self._known:
            self._refuse(401 if "Authorization" not in self.headers else 403, "GatedRepo")
        elif path not in kept.commits[commit]:
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        elif len(data := kept.commits[commit][path]) > LARGE:
            sha = _sha(data)
            place = f"http://localhost:{self.hub.port}/elsewhere/{sha}/{path}"
            about = {"X-Linked-ETag": f'"{sha}"', "X-Linked-Size": str(len(data)), "ETag": f'"{_blob(data)}"'}
            self._send(302, b"", {"Location": place, "X-Repo-Commit": commit, **about})
        else:
            self._send(200, data, {"ETag": f'"{_blob(data)}"', "X-Repo-Commit": commit})

    def _content(self, sha: str, path: str) -> None:
        """A large file's bytes, from where the reader wants them on."""
        commits = (commit for kept in self.hub.repositories.values() for commit in kept.commits.values())
        data = next(each for files in commits for each in files.values() if _sha(each) == sha)
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        about = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        cuts = self.hub.cut.get(path, [])
        data = data[start:] if path not in self.hub.false else bytes(len(data) - start)
        if path in self.hub.hangs:
            self._send(206, data, about, most=self.hub.hangs[path])
            self.hub.go_on.wait()
        else:
            self._send(206, data, about, most=cuts.pop(0) if cuts else None)

    @property
    def _known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _commit(self, name: str, revision: str) -> tuple[Kept | None, str | None]:
        kept = self.hub.repositories.get(name)
        if kept is None or (kept.private and not self._known):
            self._refuse(401 if "Authorization" not in self.headers else 404, "RepoNotFound")
            return None, None
        commit = revision if revision in kept.commits else kept.revisions.get(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
        return kept, commit

    def _refuse(self, status: int, code: str, about: Mapping[str, str] | None = None) -> None:
        self._send(status, b'{"error":"no"}', {"X-Error-Code": code, **(about or {})} if code else about or {})

    def _send(self, status: int, data: bytes, about: Mapping[str, str], most: int | None = None) -> None:
        self.send_response(status)
        for key, value in {**about, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data if most is None else data[:most])
        if most is not None:
            self.close_connection = True


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob(data: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answer", (_Answer,), {"hub": hub}))
    hub.port = server.server_port
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
