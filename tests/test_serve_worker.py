"""The process that draws, in this one: who joins its batch, who leaves, and what becomes of the others then."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenshot.batch import Batch
from tenshot.serve import messages
from tenshot.serve.worker import Worker
from tests.test_serve_models import options, worker


def told(made: Worker, kind: type) -> list[object]:
    return [each for each in made.pipe.sent if isinstance(each, kind)]  # type: ignore[attr-defined]


def heard(made: Worker, *asked: object) -> None:
    """And one step of what there is then."""
    for each in asked:
        made.inbox.put(each)
    assert made.hear()
    made.turn()


def pixels(made: Worker) -> dict[int, bytes]:
    return {each.number: each.pixels for each in told(made, messages.Drawn)}


def test_pictures_join_at_the_next_step_and_leave_at_once(sd1: Path, tmp_path: Path) -> None:
    made, asked = worker(2), options(sd1, tmp_path)
    four, two = asked.model_copy(update={"steps": 4, "seed": 2}), asked.model_copy(update={"steps": 2, "seed": 3})
    heard(made, messages.Draw({1: four}))
    heard(made, messages.Draw({2: two, 3: four}), messages.Draw({4: four}), messages.Drop(frozenset({4})))
    heard(made, messages.Drop(frozenset({3})), messages.Show(frozenset({1})))
    assert [*pixels(made)] == [2] and [each.number for each in told(made, messages.Shown)] == [1]
    heard(made)
    assert [each.steps for each in told(made, messages.Step)] == [
        {1: (1, 4)},
        {1: (2, 4), 2: (1, 2), 3: (1, 4)},
        {1: (3, 4), 2: (2, 2)},
        {1: (4, 4)},
    ]
    assert not made.under_way and made.batch is None
    alone = worker(1)
    for number, each in {1: four, 2: two}.items():
        heard(alone, messages.Draw({number: each.model_copy(update={"steps": 1})}))
        alone.given[number + 9] = each
        while alone.given or alone.under_way:
            alone.turn()
    drawn, expected = pixels(made), pixels(alone)
    for number in (1, 2):
        apart = max(abs(a - b) for a, b in zip(drawn[number], expected[number + 9], strict=True))
        assert apart <= 1 and drawn[number] != expected[number]


def test_other_weights_wait_until_the_batch_is_done(sd1: Path, sd1_lora: Path, tmp_path: Path) -> None:
    made, asked = worker(2), options(sd1, tmp_path)
    with_lora = asked.model_copy(update={"lora": [str(sd1_lora)]})
    heard(made, messages.Draw({1: asked.model_copy(update={"steps": 2}), 2: with_lora, 3: asked}))
    heard(made)
    assert not told(made, messages.Failed) and [*made.given] == [2, 3]
    heard(made)
    heard(made)
    assert [*pixels(made)] == [1, 2, 3] and pixels(made)[2] != pixels(made)[3]


def test_none_fails_for_another(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch fails each is drawn alone; one that fails then says so; what is on its way joins afterwards."""
    made, asked, step, seen = worker(2), options(sd1, tmp_path), Batch.step, []

    def failing(batch: Batch) -> object:
        seen.append(len(batch.drawings))
        if len(batch.drawings) > 2 or batch.drawings[0].total == 3:
            raise RuntimeError("no")
        return step(batch)

    monkeypatch.setattr(Batch, "step", failing)
    bad = asked.model_copy(update={"steps": 3})
    heard(made, messages.Draw({1: asked, 2: bad, 3: asked}))
    made.inbox.put(messages.Draw({4: asked, 5: asked}))
    while made.given or made.under_way:
        heard(made)
    assert seen == [3, 1, 1, 1, 2]
    assert [*pixels(made)] == [1, 3, 4, 5] and [each.number for each in told(made, messages.Failed)] == [2]
