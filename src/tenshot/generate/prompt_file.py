"""Prompts from a file: one a line."""

from __future__ import annotations

import re
from pathlib import Path

from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.io import text_files
from tenshot.prompt.faults import prompt_faults

MOST = 16 << 20  # bytes
FITS = "a text file with a prompt a line"


def read(path: Path) -> list[str]:
    """The prompts in a file; empty lines, and those that begin with #, are none.

    Raises Refusal with the faults of all lines, by their numbers.
    """
    lines = enumerate(re.split(r"\r\n?|\n", text_files.text(path, FITS, MOST, utf_16=True)), 1)
    prompts = {number: line.strip() for number, line in lines if line.strip() and not line.lstrip().startswith("#")}
    if not prompts:
        raise Refusal(Fault(f"--prompt_file {path}", "holds no prompt", FITS, "write some, or give --prompt"))
    faults = []
    for number, prompt in prompts.items():
        where = f"--prompt_file {path}, line {number}"
        if prompt.startswith("--"):
            do = "write the prompt alone; options are for all prompts, on the command line"
            faults.append(Fault(where, f"begins with an option: {prompt[:60]}", "a prompt", do))
        else:
            faults += prompt_faults(where, [prompt])
    refuse_if(faults)
    return [*prompts.values()]
