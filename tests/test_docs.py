"""The pages for users name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tenshot.core.options import MISSING, entries, spell
from tests.dreambooth_runs import METHOD_OPTIONS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
METHODS = [entries(kind) for kind in reversed(METHOD_OPTIONS)]  # the first method's defaults are told
OPTIONS = {name: entry for method in METHODS for name, entry in method.items()}
TABLE = (ROOT / "docs/training.md").read_text(encoding="utf-8").partition("## Options")[2].partition("\n## ")[0]


def test_the_training_page_names_every_option_and_no_other():
    named = set(re.findall(r"--(\w+)", TABLE)) - {"recipe", "json", "help", "no"}
    assert named == OPTIONS.keys()
    needed = {name for method in METHODS for name, entry in method.items() if entry.default is MISSING}
    assert set(re.findall(r"\*\*`--(\w+)`\*\*", TABLE)) == needed


def test_the_training_page_gives_the_defaults():
    told = dict(re.findall(r"`--(\w+)` \(([\w./-]+)[);:]", TABLE))
    plain = {name: spell(OPTIONS[name].default).replace("e-0", "e-").replace("null", "none") for name in told}
    assert told == plain
    assert len(told) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]
