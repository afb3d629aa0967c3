"""What a model is asked to draw of its subject, to see what it learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tenshot.core.errors import Fault, Refusal
from tenshot.evaluate import protocol
from tenshot.evaluate.protocol import Context
from tenshot.evaluate.subject import Images
from tenshot.io import text_files

HOLE = "{}"  # where the subject is named
MOST = 1000  # prompts in a file
PLACES = (  # with what is new in them
    ("a photo of {} in the snow", "another place"),
    ("a photo of {} on a beach", "another place"),
    ("a photo of {} on a purple background", "another background"),
    ("a watercolour painting of {}", "another style"),
    ("a pencil drawing of {}", "another style"),
)


@dataclass(frozen=True)
class EvaluationPrompt:
    """prompt: as the subject is called. plain: of its class, in words that a judge knows. new: what in it no picture
    showed, for people. context: where background and style are counted."""

    prompt: str
    plain: str
    new: str
    context: Context | None = None


def of_contexts(shown: Images, name: str, noun: str) -> list[EvaluationPrompt]:
    """In the pocket model's world: what none of the pictures shown has. name: the subject's. noun: its class."""
    return [EvaluationPrompt(each.prompt(name), each.plain(noun), each.new, each) for each in protocol.contexts(shown)]


def of_places(name: str, noun: str) -> list[EvaluationPrompt]:
    """In any model's world."""
    return [_filled(text, name, noun, new) for text, new in PLACES]


def read(file: Path, name: str, noun: str, option: str) -> list[EvaluationPrompt]:
    """One a line, each with {} in the subject's place. Raises Refusal with every line that has none."""
    lines = [
        line.strip() for line in text_files.text(file, f"prompts, one a line, with {HOLE}", 1_000_000).splitlines()
    ]
    texts = [(number, line) for number, line in enumerate(lines, 1) if line]
    bare = [str(number) for number, line in texts if HOLE not in line]
    if bare or not 0 < len(texts) <= MOST:
        found = f"no {HOLE} in line {', '.join(bare[:4])}" if bare else f"{len(texts)} prompts"
        fits = f"1 to {MOST} prompts, one a line, as in: a photo of {HOLE} in the snow"
        raise Refusal(Fault(f"{option} {file}", found, fits, f"write {HOLE} where the subject is named"))
    return [_filled(line, name, noun) for _, line in texts]


def _filled(text: str, name: str, noun: str, new: str = "") -> EvaluationPrompt:
    return EvaluationPrompt(text.replace(HOLE, name), text.replace(HOLE, protocol.article(noun)), new)
