"""The pages for users name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tenshot.options import MISSING, entries, spell
from tenshot.train.options import DreamBoothOptions

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
OPTIONS = entries(DreamBoothOptions)
DREAMBOOTH = (ROOT / "docs/dreambooth.md").read_text(encoding="utf-8")


def test_the_dreambooth_page_names_every_option_and_no_other():
    table = DREAMBOOTH.partition("## Options")[2].partition("\n## ")[0]
    named = set(re.findall(r"--(\w+)", table)) - {"recipe", "json", "help", "no"}
    assert named == OPTIONS.keys()
    needed = {name for name, entry in OPTIONS.items() if entry.default is MISSING}
    assert set(re.findall(r"\*\*`--(\w+)`\*\*", table)) == needed


def test_the_dreambooth_page_gives_the_defaults():
    told = dict(re.findall(r"`--(\w+)` \(([\w./-]+)[):]", DREAMBOOTH))
    plain = {name: spell(OPTIONS[name].default).replace("e-0", "e-").replace("null", "none") for name in told}
    assert told == plain
    assert len(told) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]
