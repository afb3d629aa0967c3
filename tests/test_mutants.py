"""The mutation check itself: what it changes, and that its tables speak of what is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests import mutants
from tests.equivalent import EQUIVALENT


@pytest.mark.parametrize(("source", "wanted"), [
    ("a + b", {"a - b"}), ("a / b", {"a * b"}), ("a < b", {"a <= b", "a >= b"}), ("a == 0.5", {"a != 0.5", "a == 1.0"}),
    ("-x", {"x"}), ("x ** 2", {"x * 2", "x ** 3"}), ("0.0", {"1.0"}), ("7", {"8"}), ("True", {"False"}),
    ("a if b else c", {"c if b else a"}), ("x.sqrt()", {"x"}), ("x.mean(1)", {"x.sum(1)", "x.mean(2)"}),
    ("f(a, b)", {"f(b, a)"}), ("max(a, b)", {"min(a, b)"}), ("x.clamp(min=a)", {"x", "x.clamp(max=a)"}),
    ("f(*a, b)", set()), ("a and b", {"a or b"}),
])  # fmt: skip
def test_slips(source: str, wanted: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mutants, "PACKAGE", tmp_path)
    (tmp_path / "m.py").write_text(f"def f():\n    return {source}\n")
    found = list(mutants.mutants("m"))
    assert {ast.unparse(ast.parse(each.after.strip()[7:])) for each in found} == wanted
    assert all(ast.parse(each.source) and each.line == 2 for each in found)


def test_annotations_decorators_and_refusals_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mutants, "PACKAGE", tmp_path)
    lines = ["@d(1)", "def f(a: x[1 + 2]) -> y[3]:", "    b: z[4] = a", "    raise E(5 + 6)", "    g(f'{7 + 8}')"]
    (tmp_path / "m.py").write_text("\n".join(lines))
    assert not list(mutants.mutants("m"))


def test_its_tables_speak_of_what_is_there():
    for target in mutants.TARGETS:
        assert (mutants.PACKAGE / f"{target}.py").is_file()
        assert all(Path(test).is_file() for test in mutants.tests_of(target))
    known = {
        (m.target, m.before.strip(), m.after.strip()) for target in mutants.TARGETS for m in mutants.mutants(target)
    }
    assert EQUIVALENT.keys() <= known
