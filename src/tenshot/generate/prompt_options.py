"""Prompts with options of their own: "steps=10 seed=3" for one of them."""

from __future__ import annotations

import difflib
import secrets
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TypeVar

from tenshot.core.errors import Fault, Refusal, all_or_refuse, faults_of, refuse_if
from tenshot.core.options import Options, entries, resolve
from tenshot.generate.matrix import valued

Record = TypeVar("Record", bound=Options)

FOR_ALL = ("prompt_options", "matrix", "grid", "preview_every", "device", "fallback", "lora_dir")
FITS = 'NAME=VALUE, as in "steps=10 seed=3"'


def written(values: Mapping[str, str]) -> str:
    return shlex.join(f"{name}={value}" for name, value in values.items())


def faults(options: Options, prompts: list[str], own: list[str]) -> Iterator[Fault]:
    """What is wrong with them, and with what the others become by them."""
    if len(own) > len(prompts):
        yield Fault("--prompt_options", f"{len(own)} for {len(prompts)} prompts", "one for each", "leave some out")
        return
    yield from faults_of(lambda: split(options, prompts, own))


def split(options: Record, prompts: list[str], own: list[str]) -> list[Record]:
    """The options of each prompt; neighbours of the same share them. Where there are more prompts, the last have own.

    Raises Refusal with the faults of all. A seed that is left to chance is the same for all.
    """
    fields = options.model_fields_set - {"prompt_options"}
    told = {name: getattr(options, name) for name in fields}
    if told.get("seed", -1) == -1:
        told["seed"] = secrets.randbelow(2**32)
    pairs = zip(prompts, [*[""] * (len(prompts) - len(own)), *own], strict=True)
    groups = [(text, [prompt for prompt, _ in group]) for text, group in groupby(pairs, lambda pair: pair[1])]
    return all_or_refuse(*(partial(_one, type(options), told, text, group) for text, group in groups))


def _one(kind: type[Record], told: Mapping[str, object], text: str, prompts: list[str]) -> Record:
    where = f"--prompt {prompts[0][:60]!r}"
    own = checked(kind, _parsed(text, where), {}, where)
    places = {name: f"{where} {name}" for name in own}
    made = resolve(kind, {**told, **own, "prompt": prompts}, places)
    named = {f"--{name}": place for name, place in places.items()}
    refuse_if(replace(fault, where=named.get(fault.where, fault.where)) for fault in made.faults())
    return made


def _parsed(text: str, where: str) -> dict[str, str]:
    try:
        pairs = [each.partition("=") for each in shlex.split(text)]
    except ValueError as error:
        raise Refusal(Fault(where, f"{text[:60]!r}: {error}", FITS, "close the quotation")) from None
    refuse_if(Fault(where, repr(name), FITS, "write it so") for name, sign, _ in pairs if not sign)
    return {name: value for name, _, value in pairs}


def checked(kind: type[Options], own: Mapping[str, str], places: Mapping[str, str], where: str) -> dict[str, object]:
    """Values of options by name, as `resolve` takes them. places: where each stands, else it is `where`.

    Raises Refusal with every name that is no option, or none of a single prompt.
    """
    known = entries(kind)
    wrong = []
    for name in own:
        place = places.get(name, f"{where} {name}")
        if name in FOR_ALL:
            wrong.append(Fault(place, "an option for all prompts", "an option of one", "give it on the command line"))
        elif name not in known:
            near = difflib.get_close_matches(name, [each for each in known if each not in FOR_ALL], 3)
            fits = " or ".join(f"--{each}" for each in near) or "an option that generate --help lists"
            wrong.append(Fault(place, "no such option", fits, "correct the name, or leave it out"))
    refuse_if(wrong)
    return {name: valued(known[name], value) for name, value in own.items()}
