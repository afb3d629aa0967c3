"""Long and weighted prompts as WebUI's rules have it, worked out by hand on a vocabulary of plain numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tenshot.prompt.chunks import Chunks, Vocabulary, chunked, emphasised
from tenshot.prompt.syntax import emphasis

START, END, PAD, COMMA = 900, 901, 902, 7
ROOM = 75


def encode(text: str) -> list[int]:
    """Words are numbers; a comma is COMMA."""
    return [COMMA if word == "," else int(word) for word in text.replace(",", " , ").split()]


VOCABULARY = Vocabulary(encode, START, END, PAD, COMMA)


def numbers(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


def text(tokens: list[int]) -> str:
    return " ".join("," if token == COMMA else str(token) for token in tokens)


def filled(*rows: list[int]) -> list[list[int]]:
    return [[START, *row, END, *[PAD] * (ROOM - len(row))] for row in rows]


def rows(prompt: str, vocabulary: Vocabulary = VOCABULARY) -> list[list[int]]:
    return chunked(emphasis(prompt), vocabulary).ids[0].tolist()


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], [[]]),
        (numbers(100, 3), [numbers(100, 3)]),
        (numbers(100, 75), [numbers(100, 75)]),
        (numbers(100, 76), [numbers(100, 75), [175]]),
        (numbers(100, 160), [numbers(100, 75), numbers(175, 75), numbers(250, 10)]),
        # a comma 20 places back: the phrase behind it moves
        ([*numbers(100, 55), COMMA, *numbers(200, 25)], [[*numbers(100, 55), COMMA], numbers(200, 25)]),
        # one further back: it is cut
        (
            [*numbers(100, 54), COMMA, *numbers(200, 25)],
            [[*numbers(100, 54), COMMA, *numbers(200, 20)], numbers(220, 5)],
        ),
        # the comma itself is the first that does not fit
        ([*numbers(100, 75), COMMA, 300], [numbers(100, 75), [COMMA, 300]]),
    ],
)
def test_long_prompts(tokens: list[int], expected: list[list[int]]):
    assert rows(text(tokens)) == filled(*expected)


def test_break_fills_a_chunk_up():
    assert rows("100 101 BREAK 102") == filled([100, 101], [102])
    assert rows("100 BREAK") == filled([100])
    assert rows("BREAK 100") == filled([], [100])
    assert rows(f"{text(numbers(100, 80))} BREAK 300") == filled(numbers(100, 75), numbers(175, 5), [300])


def test_a_learned_word_of_several_tokens_is_not_cut():
    vocabulary = Vocabulary(encode, START, END, PAD, COMMA, whole={500: 3})
    prompt = text([*numbers(100, 73), 500, 501, 502, 600])
    assert rows(prompt, vocabulary) == filled(numbers(100, 73), [500, 501, 502, 600])
    assert rows(prompt) == filled([*numbers(100, 73), 500, 501], [502, 600])


def test_weights_stand_beside_their_tokens():
    chunks = chunked(emphasis(f"100 (101 102:1.5) {text(numbers(200, 80))} [103]"), VOCABULARY)
    assert chunks.weights.shape == (1, 2, 77)
    first = [1, 1, 1.5, 1.5, *[1] * 73]
    second = [1] * 77
    second[9] = 1 / 1.1
    assert chunks.weights[0].tolist() == [pytest.approx(first), pytest.approx(second)]


@pytest.mark.parametrize("restore", [True, False])
def test_states_are_weighed_and_the_mean_of_each_chunk_restored(restore: bool):
    dice = torch.Generator().manual_seed(0)
    states = torch.randn(1, 2, 5, 3, generator=dice) + 0.5
    weights = torch.rand(1, 2, 5, generator=dice) + 0.5
    found = emphasised(states, Chunks(torch.zeros(1, 2, 5, dtype=torch.int64), weights, restore))[0]
    states, weights = states[0], weights[0]
    for chunk in range(2):
        plain = states[chunk].numpy().astype(np.float64)
        expected = plain * weights[chunk].numpy()[:, None]
        expected *= plain.mean() / expected.mean() if restore else 1
        assert np.allclose(found[chunk].numpy(), expected, atol=1e-6)


def test_without_weights_states_stay_to_the_bit():
    states = torch.randn(1, 1, 5, 3, dtype=torch.float16)
    assert chunked(emphasis("100 (101:1)"), VOCABULARY).weights is None
    assert emphasised(states, Chunks(torch.zeros(1, 1, 5, dtype=torch.int64))) is states


def test_empty_chunks_follow_where_more_are_wanted():
    assert chunked(emphasis("100"), VOCABULARY, least=2).ids[0].tolist() == filled([100], [])
    assert chunked(emphasis("100 BREAK 101"), VOCABULARY, least=2).ids[0].tolist() == filled([100], [101])


def test_half_precision_stays_and_means_are_taken_in_full():
    dice = torch.Generator().manual_seed(0)
    states, weights = torch.randn(1, 1, 77, 64, generator=dice) + 0.5, torch.ones(1, 1, 77)
    weights[..., 3:20] = 1.7
    chunks = Chunks(torch.zeros(1, 1, 77, dtype=torch.int64), weights)
    half = emphasised((8 * states).half(), chunks)
    assert half.dtype == torch.float16
    assert torch.allclose(half.float(), emphasised((8 * states).half().float(), chunks), rtol=2e-3, atol=1e-3)
