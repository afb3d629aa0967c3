"""Digests, beside hashlib: each kind follows from what it is of, and from nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from tenshot.io import cache, hashes


def test_files_bytes_and_chunks_have_the_digest_of_hashlib(tmp_path: Path):
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    whole, rest = (hashlib.sha256(each).hexdigest() for each in (data, data[300:]))
    assert hashes.of_bytes(data) == hashes.of_chunks([data[:7], b"", data[7:]]) == whole
    assert hashes.of_file(tmp_path / "file") == whole
    assert hashes.of_file(tmp_path / "file", 300) == rest
    assert hashes.of_file(tmp_path / "file", len(data) + 1) == hashlib.sha256(b"").hexdigest()


def test_settings_have_one_digest_in_any_order_and_as_they_are_read_again():
    value = {"b": (1, 2.5), "a": {10: None, 9: "\u00e4"}}
    other = {"a": {9: "\u00e4", 10: None}, "b": [1, 2.5]}
    assert hashes.of_json(value) == hashes.of_json(other) == hashes.of_json(json.loads(json.dumps(value)))
    plain = '{"a": {"10": null, "9": "\\u00e4"}, "b": [1, 2.5]}'
    assert hashes.of_json(value) == hashlib.sha256(plain.encode()).hexdigest()


@pytest.mark.parametrize("other", [{"a": torch.ones(4)}, {"b": torch.ones(2, 2)}, {"a": torch.ones(2, 2).half()}])
def test_the_digest_of_tensors_follows_from_names_shapes_kinds_and_numbers(other: dict[str, torch.Tensor]):
    one = {"a": torch.ones(2, 2)}
    assert hashes.of_tensors(one) == hashes.of_tensors({"a": torch.ones(2, 2).T})
    assert len({hashes.of_tensors(each, key) for each in (one, other) for key in ("", "k")}) == 4
    assert hashes.of_tensors(one) != hashes.of_tensors({"a": torch.eye(2)})


def test_a_folder_is_seen_again_only_where_it_changed(tmp_path: Path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    first = cache.seen(tmp_path)
    told = f"vae/config.json {hashlib.sha256(b'{}').hexdigest()}"
    assert first["sha256"] == hashlib.sha256(told.encode()).hexdigest()
    assert cache.seen(tmp_path, first) == first
    (tmp_path / "vae" / "config.json").write_text("[]")
    assert cache.seen(tmp_path, first)["sha256"] != first["sha256"]
