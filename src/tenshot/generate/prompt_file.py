"""Prompts from a file: one a line, alone, or with options as the lines of WebUI's "Prompts from file or textbox"."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.option_markers import Elsewhere
from tenshot.core.options import Options, entries, resolve
from tenshot.core.recipes import Say
from tenshot.diffusion.samplers import SAMPLERS, parted
from tenshot.generate import prompt_options
from tenshot.io import text_files
from tenshot.prompt.faults import prompt_faults

FITS = "a text file with a prompt a line"
TEXTS = ("prompt", "negative_prompt")  #: all words up to the next option are theirs
PICTURES = ("n_iter", "batch_size")  #: of which WebUI draws the product
#: What WebUI calls an option -> its name here.
ALSO = {
    "cfg_scale": "guidance_scale",
    "sampler_name": "sampler",
    "subseed": "variation_seed",
    "subseed_strength": "variation_strength",
    "outpath_samples": "out",
}
_NO, _ZERO = ("false", "False"), ("0", "-1")
#: What only WebUI has.
ELSEWHERE = {
    "prompt_for_display": Elsewhere("it is what WebUI shows"),
    "outpath_grids": Elsewhere("sheets lie beside the pictures"),
    "do_not_save_grid": Elsewhere("a sheet is made where --grid asks for one"),
    "do_not_save_samples": Elsewhere("all pictures are written", fine=_NO),
    "restore_faces": Elsewhere("faces are not restored here", fine=_NO),
    "tiling": Elsewhere("pictures do not tile here", fine=_NO),
    "seed_resize_from_h": Elsewhere("noise is of the size that is drawn", fine=_ZERO),
    "seed_resize_from_w": Elsewhere("noise is of the size that is drawn", fine=_ZERO),
    "sampler_index": Elsewhere(do="name it: --sampler_name Euler"),
    "styles": Elsewhere(do="write their words into the prompt"),
    "sd_model": Elsewhere(do="--model names one"),
}


def read(path: Path, kind: type[Options], say: Say) -> dict[str, list[str]]:
    """The prompts in a file and the options of each; empty lines, and those that begin with #, are none.

    kind: of the options. say: hears what is taken without effect. Raises Refusal with the faults of all lines, by their
    numbers.
    """
    asked = text_files.numbered_lines(path, FITS)
    if not asked:
        raise Refusal(Fault(f"--prompt_file {path}", "holds no prompt", FITS, "write some, or give --prompt"))
    where = f"--prompt_file {path}, line"
    pairs = all_or_refuse(*(partial(_line, line, f"{where} {number}", kind, say) for number, line in asked.items()))
    return {"prompt": [prompt for prompt, _ in pairs], "prompt_options": [own for _, own in pairs]}


def _line(line: str, where: str, kind: type[Options], say: Say) -> tuple[str, str]:
    """A prompt, and its options as `prompt_options.written` has them."""
    if not line.startswith("--"):
        names = [name for name in re.findall(r"(?:^|\s)--(\w+)", line) if name in {*entries(kind), *ALSO, *ELSEWHERE}]
        do = 'write --prompt "..." before the options'
        refuse_if(Fault(where, f"--{name} within a prompt", "a prompt alone, or options alone", do) for name in names)
        refuse_if(prompt_faults(where, [line]))
        return line, ""
    told = _words(line, where)
    prompt = told.pop("prompt", "")
    if not prompt:
        raise Refusal(Fault(where, "options without a prompt", '--prompt "a cat" --steps 10', "add --prompt"))
    own = _named(told, where, say)
    places = {name: f"{where}: --{_written(name, told)}" for name in own}
    values = prompt_options.checked(kind, own, places, where)
    all_or_refuse(
        lambda: refuse_if(prompt_faults(where, [prompt, own.get("negative_prompt", "")])),
        lambda: resolve(kind, {**values, "prompt": [prompt]}, places),
    )
    return prompt, prompt_options.written(own)


def _words(line: str, where: str) -> dict[str, str]:
    """The values of a line's options, by the names that stand there."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        do = 'put it in quotation marks: --prompt "the cat\'s hat"'
        raise Refusal(Fault(where, str(error), "quotation marks and apostrophes in pairs", do)) from None
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            groups.append((name.replace("-", "_"), [value] if equals else []))
        else:
            groups[-1][1].append(word)
    wrong = []
    for name, values in groups:
        if not values or (len(values) > 1 and name not in TEXTS):
            found = shlex.join(values) if values else "is given no value"
            wrong.append(
                Fault(f"{where}: --{name}", found, "one value", "put text of several words in quotation marks")
            )
    for name in dict.fromkeys(name for name, _ in groups if [each for each, _ in groups].count(name) > 1):
        wrong.append(Fault(f"{where}: --{name}", "is given twice", "once in a line", "leave one out"))
    refuse_if(wrong)
    return {name: " ".join(values) for name, values in groups}


def _named(told: Mapping[str, str], where: str, say: Say) -> dict[str, str]:
    """The same by their names here. Raises Refusal where one asks for what only WebUI does."""
    own, wrong = {}, []
    for name, value in told.items():
        if name in ELSEWHERE:
            answer = ELSEWHERE[name].take(f"{where}: --{name}", value, told)
            if isinstance(answer, Fault):
                wrong.append(answer)
            else:
                say(answer)
        elif name not in PICTURES:
            own[ALSO.get(name, name)] = value
    counts = {name: told[name] for name in PICTURES if name in told}
    for name, value in counts.items():
        if not re.fullmatch(r"\d{1,6}", value):
            wrong.append(Fault(f"{where}: --{name}", value, "a whole number from 1", "correct it"))
    refuse_if(wrong)
    if counts:
        own["num_images"] = str(int(counts.get("n_iter", 1)) * int(counts.get("batch_size", 1)))
    if "sampler" in own:
        own["sampler"] = _spelled(own["sampler"])
    return own


def _spelled(sampler: str) -> str:
    """Of a sampler's name capitals do not count."""
    bare, _ = parted(sampler)
    return {name.lower(): name for name in SAMPLERS}.get(bare.lower(), bare) + sampler[len(bare) :]


def _written(name: str, told: Mapping[str, str]) -> str:
    """What an option is called in the line."""
    return next((each for each in told if ALSO.get(each, each) == name), " or --".join(PICTURES))
