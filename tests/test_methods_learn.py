"""Every method, as documented, teaches the pocket model subjects that none of its nets ever saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import peers

DOCUMENTED = [row for row in peers.SETTINGS if row != "lora"]  # which is of fewer layers, as in diffusers' script
SUBJECTS = {"fox": "animal", "cactus": "plant", "sailboat": "vehicle", "robot": "face"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class pictures in it are drawn once."""
    return tmp_path_factory.mktemp("peers")


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize(
    "row", [row for row in peers.SETTINGS if row != "lora"]
)  # which has fewer layers than documented
def test_a_method_learns_a_subject_and_no_other(row: str, name: str, out: Path) -> None:
    found = peers.run(peers.Cell("tenshot", row, name, SUBJECTS[name], seed=0), out, None, "")
    assert found["margin"] > 0  # nearer to the subject than to the nearest of fifteen others, in the mean
    assert found["identified"] >= 0.8  # and picture by picture
