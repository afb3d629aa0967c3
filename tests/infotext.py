"""Infotext read back as user interfaces read it: the inverse of what `tenshot.io.png` writes."""

from __future__ import annotations

import json
import re

_NEGATIVE = "Negative prompt:"
_KEY = r"\w[^,:\"\n]*"
_VALUE = r"\"(?:\\.|[^\\\"])*\"|[^,\n]*"
_PAIR = re.compile(rf"\s*({_KEY}):\s*({_VALUE})(?:,|$)")


def parse_infotext(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and facts of an infotext; the inverse of `infotext`.

    As in every reader of this format, the last line holds the facts if it starts with `Steps: <number>` or is made of
    three facts or more, and the negative prompt starts at the first line that says so.
    """
    lines = text.split("\n")
    facts = _facts(lines[-1])
    lines = lines[:-1] if facts else lines
    start = next((number for number, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:])[len(_NEGATIVE) :]
    return "\n".join(lines[:start]), negative.removeprefix(" "), facts


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value


def _facts(line: str) -> dict[str, str]:
    """The facts that `line` holds, none where it reads like a prompt. Never scans a character twice, however long."""
    facts: dict[str, str] = {}
    at, whole = 0, True
    while at < len(line):
        pair = _PAIR.match(line, at)
        if pair:
            facts[pair[1].rstrip()] = _unquoted(pair[2])
        whole = whole and pair is not None
        at = pair.end() if pair else (line.find(",", at) + 1 or len(line))
    certain = re.match(r"Steps: \d+(,|$)", line) is not None
    return facts if certain or (whole and len(facts) >= 3) else {}
