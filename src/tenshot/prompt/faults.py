"""What is wrong with prompts, told before anything is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tenshot.core.errors import Fault
from tenshot.prompt.syntax import heaviest, without_loras

HEAVIEST = 1000  #: weight of words: more is a slip of the finger


def prompt_faults(option: str, prompts: Sequence[str]) -> Iterator[Fault]:
    """option: where the prompts stand."""
    for prompt in prompts:
        try:
            without_loras(prompt)
        except ValueError as error:
            yield Fault(option, str(error), "<lora:name>, <lora:name:0.8>", "correct it, or leave it out")
        if not (weight := heaviest(prompt)) <= HEAVIEST:
            found = f"{prompt[:60]!r} has a weight of {weight:g}"
            yield Fault(option, found, f"at most {HEAVIEST}", "1.3 is much already: (word:1.3)")
