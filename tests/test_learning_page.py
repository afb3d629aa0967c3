"""docs/learning.md holds what docs/learning.json holds, and that what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests import learning
from tests.learning import Measured

SETTINGS = {"lora": {"rank": 8}, "full": {"learning_rate": 1e-4}}


def measured(row: str, subject: str, seed: int, **figures: float) -> Measured:
    told = dict.fromkeys(learning.SHOWN, 0.5) | figures
    cell = {"tool": "tenshot", "row": row, "subject": subject, "noun": "animal", "seed": seed}
    return {"cell": cell, "figures": told}


def test_the_page_is_of_the_record():
    record = json.loads(learning.RECORD.read_text(encoding="utf-8"))
    page = learning.RECORD.with_suffix(".md").read_text(encoding="utf-8")
    assert learning.filled(page, record) == page and "nothing yet" not in page


def test_means_deviations_and_counts_leave_out_what_settings_were_chosen_on(tmp_path: Path):
    place = tmp_path / "learning.json"
    for subject, margin in (("fox", 0.1), ("otter", 0.4), ("penguin", 9.0)):
        learning.add(place, SETTINGS, measured("lora", subject, 0, margin=margin))
    record = learning.read(place, SETTINGS)
    assert len(record["cells"]) == 3
    (line,) = [line for line in learning.table(record).splitlines() if line.startswith("| lora, tenshot")]
    cells = dict(zip(learning.SHOWN, line.split(" | ")[1:], strict=False))
    assert cells["margin"] == f"0.25 ± {0.3 / math.sqrt(2):.2g}" and line.endswith("| 2 |")
    assert "| lora | +0.10, 50 % | +0.40, 50 % |" in learning.by_subject(record)


def test_what_was_measured_otherwise_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / "learning.json"
    for row in SETTINGS:
        learning.add(place, SETTINGS, measured(row, "fox", 0))
    changed = SETTINGS | {"lora": {"rank": 4}}
    assert [each["cell"]["row"] for each in learning.read(place, changed)["cells"]] == ["full"]
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    monkeypatch.setattr(learning, "ASSETS", tmp_path.parent)
    assert not learning.read(place, SETTINGS)["cells"]
