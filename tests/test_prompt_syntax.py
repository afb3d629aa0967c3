"""The language of prompts against what its documentation says, worked out by hand."""

from __future__ import annotations

import pytest

from tenshot.prompt.syntax import LoraTag, Piece, composed, emphasis, schedule, without_loras


def weights(prompt: str) -> list[list[tuple[str, float]]]:
    return [[(piece.text, piece.weight) for piece in section] for section in emphasis(prompt)]


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        ("a (cat)", [("a ", 1), ("cat", 1.1)]),
        ("a ((cat))", [("a ", 1), ("cat", 1.1 * 1.1)]),
        ("a (cat:1.3) sits", [("a ", 1), ("cat", 1.3), (" sits", 1)]),
        ("a ( cat : 1.3 )", [("a ", 1), (" cat ", 1.3)]),
        ("a [cat]", [("a ", 1), ("cat", 1 / 1.1)]),
        ("(a [cat:0.5])", [("a ", 1.1), ("cat:0.5", 1.1 / 1.1)]),
        ("((a:2) b)", [("a", 2 * 1.1), (" b", 1.1)]),
        ("(a)(b)", [("ab", 1.1)]),
        (r"a \(cat\) \[x\] c\\d", [(r"a (cat) [x] c\d", 1)]),
        ("(open", [("open", 1.1)]),
        ("[open", [("open", 1 / 1.1)]),
        ("a) b]", [("a) b]", 1)]),
        ("a :1.2) b: c", [("a :1.2) b: c", 1)]),
        ("(a [b) c]", [("a ", 1.1), ("b", 1.1 * (1 / 1.1)), (" c", 1 / 1.1)]),
        ("(a:-0.5) (b:.5) (c:2.)", [("a", -0.5), (" ", 1), ("b", 0.5), (" ", 1), ("c", 2)]),
        ("a\\", [("a\\", 1)]),
    ],
)
def test_emphasis(prompt: str, pieces: list[tuple[str, float]]):
    (found,) = weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces])


def test_nested_emphasis_multiplies():
    (found,) = weights("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).")
    text = ["a ", "house", " ", "on", " a ", "hill", ", sun, ", "sky", "."]
    assert [piece for piece, _ in found] == text
    factors = [1, 1.3 * 1.1 * 1.1, 1.1, 1, 1.1, 0.55, 1.1, 1.1**4, 1.1]
    assert [weight for _, weight in found] == pytest.approx(factors)


def test_break_begins_a_new_section_wherever_it_stands():
    assert weights("a cat BREAK on a (mat BREAK red) BREAKING") == [
        [("a cat", 1)],
        [("on a ", 1), ("mat", 1.1)],
        [("red", 1.1), (" BREAKING", 1)],
    ]
    assert weights("a BREAK BREAK b") == [[("a", 1)], [], [("b", 1)]]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("test", [(10, "test")]),
        ("a [b:3]", [(3, "a "), (10, "a b")]),
        ("a [b: 3 ]", [(3, "a "), (10, "a b")]),
        ("a [b::3] c", [(3, "a b c"), (10, "a  c")]),
        ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
        ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
        ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
        ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
        ("a [unbalanced", [(10, "a [unbalanced")]),
        ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
        ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
        ("a [cat:dog:20]", [(10, "a cat")]),
        ("a [cat:dog:0]", [(10, "a dog")]),
        ("a [cat:dog:1.0]", [(10, "a cat")]),  # a share: to the end
        ("a [cat:dog:1]", [(1, "a cat"), (10, "a dog")]),
        (r"a \[cat:dog:3\]", [(10, r"a \[cat:dog:3\]")]),
        ("a [cat (x:y) b]", [(10, "a [cat (x:y) b]")]),
        ("[a:b:c:3]", [(10, "[a:b:c:3]")]),
        ("[a (b]:3)", [(10, "[a (b]:3)")]),
    ],
)
def test_prompt_editing(prompt: str, said: list[tuple[int, str]]):
    assert schedule(prompt, 10) == said


def test_turns():
    assert schedule("[a|(b:1.1)]", 4) == [(1, "a"), (2, "(b:1.1)"), (3, "a"), (4, "(b:1.1)")]
    assert schedule("x [a|b|] y", 5) == [(1, "x a y"), (2, "x b y"), (3, "x  y"), (4, "x a y"), (5, "x b y")]
    assert schedule("[[a|b]:c:2]", 4) == [(1, "a"), (2, "b"), (4, "c")]


def test_the_example_of_the_documentation():
    prompt = (
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[ in background:0.25] [shoddy:masterful:0.5]"
    )
    assert schedule(prompt, 100) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


def test_a_second_pass_goes_on_counting():
    assert schedule("[a:b:12]", 10, before=8) == [(4, "a"), (10, "b")]
    assert schedule("[a:b:1.5]", 10, before=8) == [(5, "a"), (10, "b")]
    assert schedule("[a:b:0.5]", 10, before=8) == [(10, "b")]


def test_several_prompts_at_once():
    assert composed("a cat :1.2 AND a dog AND  a mouse : 0.5 ") == [
        Piece("a cat", 1.2),
        Piece(" a dog", 1.0),
        Piece("  a mouse", 0.5),
    ]
    assert composed("SAND AND (a:1.2)") == [Piece("SAND", 1.0), Piece(" (a:1.2)", 1.0)]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:az>", LoraTag("az", 1, 1)),
        ("<lora:az:0.8>", LoraTag("az", 0.8, 0.8)),
        ("<lora:az:0.8:0.3>", LoraTag("az", 0.8, 0.3)),
        ("<lora:az:0.8:unet=0.3>", LoraTag("az", 0.8, 0.3)),
        ("<lora:az:te=0:unet=1.5>", LoraTag("az", 0, 1.5)),
        ("<lora:a b-1.2:-1>", LoraTag("a b-1.2", -1, -1)),
    ],
)
def test_loras(tag: str, expected: LoraTag):
    assert without_loras(f"a cat {tag}, red") == ("a cat , red", [expected])


def test_what_is_no_lora_stays_and_a_strength_has_to_be_a_number():
    assert without_loras("a <az> cat <other:x:1>") == ("a <az> cat <other:x:1>", [])
    assert without_loras("a <lyco:az:1>") == ("a ", [LoraTag("az", 1, 1)])
    with pytest.raises(ValueError, match="much"):
        without_loras("<lora:az:much>")
    with pytest.raises(ValueError, match="hypernet"):
        without_loras("a <hypernet:x:1>")


@pytest.mark.parametrize("prompt", ["[" * 20_000, "[a:" * 5000 + "1]" * 5000, "(" * 3000 + ")" * 3000, "[a|" * 5000])
def test_brackets_without_end_are_read(prompt: str):
    assert schedule(prompt, 2)
    assert emphasis(prompt)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (r"[a\|b|c]", [r"a\|b", "c"]),
        (r"[\|x|c]", [r"\|x", "c"]),
        (r"[a\:b:c:1]", [r"a\:b", "c"]),
        (r"[(a|b):c:1]", ["(a|b)", "c"]),
        (r"[(a|b)|c|d]", ["(a|b)", "c"]),
        (r"\[a|b]", [r"\[a|b]"]),
    ],
)
def test_signs_that_are_escaped_or_in_further_brackets_part_nothing(prompt: str, said: list[str]):
    assert [text for _, text in schedule(prompt, 2)] == said


@pytest.mark.parametrize("when", ["1e400", "0.5e400", "9" * 400])
def test_a_step_without_end_is_the_last(when: str):
    assert schedule(f"[a:b:{when}]", 3) == [(3, "a")]
    assert schedule(f"[a:b:-{when}]", 3) == [(3, "b")]
