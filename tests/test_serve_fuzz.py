"""Malformed requests, by hand and by schemathesis from the OpenAPI page: a reason, no traceback, no file touched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import requests

from tests.servers import Running, running

#: What no route takes for a request, as it comes over the wire.
BODIES = (
    b"",
    b"null",
    b"[]",
    b'"prompt"',
    b"{",
    b'{"prompt": "\xff\xfe"}',
    b"[" * 100_000,
    b'{"prompt": NaN, "images": NaN, "image": NaN, "id_task": NaN}',
    b'{"prompt": {}, "images": {}, "image": {}, "id_task": {}, "sd_model_checkpoint": {}}',
    b'{"steps": ' + b"9" * 5000 + b', "prompt": 1, "image": 1, "id_task": 1, "nothing": 1}',
)
CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance"


def touched(folder: Path) -> dict[str, int]:
    return {str(each): each.stat().st_mtime_ns for each in folder.rglob("*")}


def test_bodies_that_are_none(server: Running, sd1: Path) -> None:
    """Every route that takes one. Nothing of it is drawn, and nothing is left of it."""
    before = touched(sd1)
    page = requests.get(f"{server.url}/openapi.json", timeout=30).json()
    posts = [path for path, methods in page["paths"].items() if "requestBody" in methods.get("post", {})]
    assert len(posts) >= 8
    for path, body in product(posts, BODIES):
        kind = "multipart/form-data; boundary=x" if path.endswith("edits") else "application/json"
        answer = requests.post(f"{server.url}{path}", data=body, headers={"Content-Type": kind}, timeout=60)
        assert answer.status_code in (400, 404, 422), (path, body[:40])
        told = answer.json()
        assert told.get("detail") or told["error"]["message"], (path, body[:40])
        assert "Traceback" not in answer.text
    assert touched(sd1) == before and "Traceback" not in "".join(server.said)


@pytest.mark.slow
def test_a_thousand_requests_by_schemathesis(sd1: Path, sd1_lora: Path, tmp_path: Path) -> None:
    """What is drawn is small. A request that says nonsense is never the server's fault, and no answer surprises."""
    limits = ("--max_steps=1", "--max_side=64", "--max_images=1", "--max_body=2", "--grace=1")
    before = touched(sd1), touched(sd1_lora.parent)
    with running(sd1, "--lora_dir", sd1_lora.parent, *limits) as server:
        command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json", "--seed=1"]
        command += [
            "--checks",
            CHECKS,
            "--phases=examples,coverage,fuzzing",
            "--max-examples=8",
            "--request-timeout=60",
        ]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=900)
        assert ran.returncode == 0, ran.stdout[-5000:]
        assert int(re.search(r"(\d+) generated", ran.stdout)[1]) >= 1000
        assert requests.get(f"{server.url}/readyz", timeout=9).status_code == 200
    assert "Traceback" not in "".join(server.said)
    assert (touched(sd1), touched(sd1_lora.parent)) == before
    assert "Traceback" not in json.dumps(ran.stdout)
