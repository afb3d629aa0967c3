"""Who is drawn next: fair, in batches of one kind, with few swaps of weights; figures worked out by hand."""

from __future__ import annotations

import random

import pytest

from tenshot.core.options import resolve
from tenshot.generate.options import GenerateOptions
from tenshot.serve.queue import PATIENCE, Full, Kind, Queue, Row


def rows(caller: str, count: int = 1, priority: int = 0, **options: object) -> list[Row]:
    given = resolve(GenerateOptions, {"prompt": ["a"], "width": 64, "height": 64, **options})
    return [Row(number, f"{caller} {id(given)}", caller, given, priority) for number in range(count)]


def callers(batch: list[Row]) -> str:
    return "".join(row.caller for row in batch)


def test_callers_take_turns_however_many_each_asked_for() -> None:
    queue = Queue(100, 1)
    queue.put(rows("a", 5))
    queue.put(rows("b", 2))
    assert callers([queue.take()[0] for _ in range(3)]) == "aba"
    queue.put(rows("c", 2))  # comes late: its turn is now, but not for what the others have had before
    assert callers([queue.take()[0] for _ in range(6)]) == "bcaca" + "a"
    assert queue.take() == []


def test_who_was_away_has_saved_up_nothing() -> None:
    queue = Queue(100, 1)
    queue.put(rows("a", 50))
    for _ in range(40):
        queue.take()
    queue.put(rows("b", 10))
    assert sorted(callers([queue.take()[0] for _ in range(6)])) == [*"aaabbb"]


def test_alike_are_drawn_at_once_whoever_asked() -> None:
    queue = Queue(100, 4)
    queue.put(rows("a", 2, prompt=["a cat"], seed=3))
    queue.put(rows("b", 1, width=72))
    queue.put(rows("c", 3, prompt=["a dog"], negative_prompt="a cat", seed=9))
    assert callers(queue.take()) == "aacc" or callers(queue.rows) == "bc"
    assert callers(queue.take()) == "b"
    assert callers(queue.take()) == "c"


@pytest.mark.parametrize(
    "other",
    [{"width": 128}, {"hires_scale": 2.0}, {"model": "another"}, {"prompt": ["a <lora:x:0.5>"]}, {"lora": ["x=0.5"]}],
)
def test_other_sizes_and_weights_are_not(other: dict[str, object]) -> None:
    queue = Queue(100, 4)
    queue.put(rows("a"))
    queue.put(rows("b", **other))
    assert len(queue.take()) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"steps": 3},
        {"sampler": "DDIM"},
        {"guidance_scale": 3},
        {"clip_skip": 2},
        {"init_image": "a.png", "strength": 0.5},
        {"init_image": "a.png", "mask": "b.png"},
    ],
)
def test_all_else_is_each_pictures_own(other: dict[str, object]) -> None:
    queue = Queue(100, 4)
    queue.put(rows("a"))
    queue.put(rows("b", **other))
    assert callers(queue.take()) == "ab"


def test_pictures_that_say_the_size_are_not_joined() -> None:
    queue = Queue(100, 4)
    for name in "ab":
        queue.put(rows(name, init_image=f"{name}.png", width=None))
        queue.put(rows(name, init_image=f"{name}.png"))
    assert sorted(len(queue.take()) for _ in range(3)) == [1, 1, 2]


def test_weights_in_memory_come_first_but_not_for_ever() -> None:
    queue = Queue(100, 1)
    queue.put(rows("a", prompt=["x <lora:a>"]))
    for number in range(20):
        queue.put(rows(str(number)))
    loaded = queue.rows[1].kind.weights
    order = [queue.take(loaded)[0].caller for _ in range(20)]
    assert order.index("a") == PATIENCE
    assert Queue(9, 1).take(loaded) == []


def test_a_batch_is_joined_by_its_kind_but_not_for_ever() -> None:
    queue = Queue(100, 2)
    queue.put(rows("a"))
    (first,) = queue.take()
    queue.put(rows("b", width=72))
    queue.put(rows("c", 99 - PATIENCE))
    assert queue.join(first.kind, 0) == []
    joined = [queue.join(first.kind, 1) for _ in range(99)]
    assert callers([row for each in joined for row in each]) == "c" * 2 * PATIENCE
    assert callers(queue.take(first.kind.weights)) == "b"
    assert callers(queue.join(first.kind, 2)) == "cc"


def test_nobody_is_passed_by_more_than_a_few_batches() -> None:
    """Twenty LoRA sets at random, one device: begun in whatever order, all are within that of their turn."""
    dice, batch = random.Random(0), 4
    queue, begun, asked = Queue(10_000, batch), 0, 0
    turns: dict[Row, int] = {}
    worst, swaps, kind = 0, 0, Kind("", "")
    while begun < 2000:
        while asked < 2000 and len(queue.rows) < 32:
            (row,) = rows(str(asked), prompt=[f"a <lora:{dice.randrange(20)}>"])
            queue.put([row])
            turns[row], asked = asked, asked + 1
        drawn = queue.join(kind, 1) or queue.take(kind.weights)
        swaps += drawn[0].kind != kind
        kind = drawn[0].kind
        worst = max(worst, *(begun - turns[row] for row in drawn))
        begun += len(drawn)
    assert worst < (PATIENCE + 1) * batch and swaps < 1200


def test_what_is_urgent_comes_first_whatever_is_in_memory() -> None:
    queue = Queue(100, 1)
    queue.put(rows("a", 2))
    queue.put(rows("b", 1, priority=1, prompt=["x <lora:b>"]))
    assert callers(queue.take(queue.rows[0].kind.weights)) == "b"


def test_no_more_than_fit_may_wait() -> None:
    queue = Queue(3, 1)
    queue.put(rows("a", 2))
    with pytest.raises(Full, match=r"2 pictures wait, and 2 more"):
        queue.put(rows("b", 2))
    assert len(queue.rows) == 2
    queue.put(rows("b", 1))


def test_the_dropped_are_gone_and_the_others_counted() -> None:
    queue = Queue(100, 4)
    first, second = rows("a", 3), rows("b", 1, width=72)
    queue.put(first)
    queue.put(second)
    assert queue.before(second) == 1 and queue.before(first) == 0 and queue.before([]) == 0
    queue.drop(first[:2])
    assert [*queue.rows] == [first[2], *second]
