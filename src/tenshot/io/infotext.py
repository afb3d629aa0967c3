"""Infotext: what AUTOMATIC1111's WebUI writes beside a picture, and Civitai after it, written and read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

NEGATIVE = "Negative prompt:"
_KEY = r"\w[^,:\"\n]*"
_NAME = re.compile(rf"\s*({_KEY}):\s*")
_VALUE = re.compile(r"\"(?:\\.|[^\\\"])*\"|[^,\n]*")
CERTAIN = re.compile(r"Steps: \d+(,|$)")  #: how a line of several facts begins that is one for certain
FEW = 3  #: so many facts make a line one of facts that does not begin so


@dataclass(frozen=True)
class Infotext:
    """facts: by the names that user interfaces know, such as "CFG scale"."""

    prompt: str
    negative_prompt: str
    facts: Mapping[str, str]


def written(prompt: str, negative_prompt: str, facts: Mapping[str, object]) -> str:
    """The prompt, the negative prompt where there is one, and a last line `Steps: 20, Seed: 1`.

    A fact that is None is left out. Raises ValueError where a fact's name holds a comma, colon, quote or line break.
    """
    wrong = [name for name in facts if not re.fullmatch(_KEY, name) or name != name.strip()]
    if wrong:
        raise ValueError(f"names of facts that could not be read back: {wrong}")
    last = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in facts.items() if value is not None)
    negative = f"{NEGATIVE} {negative_prompt}" if negative_prompt else ""
    return "\n".join(part for part in (prompt, negative, last) if part)


def _quoted(value: str) -> str:
    plain = not re.search(r"[,:\n]", value) and not value.startswith('"') and value == value.strip()
    return value if plain else json.dumps(value, ensure_ascii=False)


def parsed(text: str) -> Infotext:
    """The inverse of `written`. The last line holds the facts, and the negative prompt begins where a line says so."""
    *lines, last = text.strip().split("\n")
    facts = _facts(last)
    if not facts:
        lines = [*lines, last]
    start = next((number for number, line in enumerate(lines) if line.startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).removeprefix(NEGATIVE).removeprefix(" ")
    return Infotext("\n".join(lines[:start]), negative, facts)


def _facts(line: str) -> dict[str, str]:
    """Empty where the line reads like a prompt. Values may be JSON, as Civitai's are."""
    facts: dict[str, str] = {}
    at, whole = 0, True
    while at < len(line):
        if name := _NAME.match(line, at):
            facts[name[1].rstrip()], at = _value(line, name.end())
        whole = whole and name is not None
        at = line.find(",", at) + 1 or len(line)
    certain = CERTAIN.match(line) and len(facts) > 1
    return facts if certain or (whole and len(facts) >= FEW) else {}


def _value(line: str, at: int) -> tuple[str, int]:
    """What stands there, and where it ends."""
    if line[at : at + 1] in ("[", "{", '"'):
        try:
            value, end = json.JSONDecoder().raw_decode(line, at)
            return value if isinstance(value, str) else line[at:end], end
        except (ValueError, RecursionError):
            pass
    found = _VALUE.match(line, at)
    assert found
    return found[0].strip(), found.end()
