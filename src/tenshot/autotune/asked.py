"""What a model is asked to draw where ways to draw are tried, and who judges it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from tenshot import next_commands
from tenshot.autotune.tune_options import TuneOptions
from tenshot.core.errors import Fault, Refusal, all_or_refuse
from tenshot.evaluate import dino_clip, pocket_judge, protocol
from tenshot.evaluate.judge import Images, Judge
from tenshot.evaluate.metrics import COLOURS
from tenshot.evaluate.protocol import MEDIA, Context
from tenshot.io import text_files
from tenshot.io.image_folder import read_folder
from tenshot.io.images import open_picture
from tenshot.pipeline import Request
from tenshot.prompt.faults import prompt_faults

#: What pocket is asked for, and models with its VAE of which nobody knows what they were taught.
NOUNS = ("cat", "dog", "panda", "bear", "fish", "rocket", "car", "house", "tree", "apple", "guitar", "rose")
SEARCH = 4  # so many times fewer pictures to search by than to prove by
FEWEST = 4  # pictures


def settled(options: TuneOptions, given: Sequence[str], folder: Path) -> tuple[list[str], Judge | None, Images]:
    """The prompts, who judges, and the subject's pictures. given: prompts, as a file would give them.

    folder: the model's. Raises Refusal with all that lacks.
    """
    kin = pocket_judge.fits(folder)
    prompts, judge, shots = all_or_refuse(
        lambda: [*dict.fromkeys(given)] or _prompts(options, folder, kin),
        lambda: _judge(options, kin),
        lambda: _shots(options, folder),
    )
    if options.certificate == "good" and not any(map(protocol.counts, prompts)):
        found = "no prompt says a background or a style that can be counted, and without those nobody notices"
        do = "let some end in: on a red background"
        raise Refusal(Fault("--prompts", f"{found} when guidance is missing", "prompts that say one", do))
    return prompts, judge, shots


def requests(prompts: Sequence[str], count: int, seed: int) -> tuple[list[Request], list[Request]]:
    """Those to search by, and `count` others to prove by, each with a seed of its own, prompts in mixed order."""
    mixed = [*prompts]
    random.Random(seed).shuffle(mixed)
    few = max(FEWEST, count // SEARCH)
    whole = [Request(prompt, seed + number) for number, prompt in enumerate(islice(cycle(mixed), few + count))]
    return whole[:few], whole[few:]


def _prompts(options: TuneOptions, folder: Path, kin: bool) -> list[str]:
    if options.prompts:
        lines = text_files.numbered_lines(options.prompts, "a text file with a prompt a line")
        faults = [
            fault
            for number, line in lines.items()
            for fault in prompt_faults(f"--prompts {options.prompts}, line {number}", [line])
        ]
        if faults or not lines:
            empty = Fault(f"--prompts {options.prompts}", "holds no prompt", "a prompt a line", "write some")
            raise Refusal(*(faults or [empty]))
        return list(dict.fromkeys(lines.values()))
    found = next_commands.recorded(folder)
    if kin and not found:
        return _everywhere([protocol.article(noun) for noun in NOUNS])
    if not found:
        told = f"none, and {folder} has no manifest of a training that tells what it was taught"
        raise Refusal(Fault("--prompts", told, "a file with what is to be drawn, a prompt a line", "--prompts FILE"))
    names = dict.fromkeys(text.rpartition(" of ")[2] for text in found if not protocol.counts(text))
    return [*found, *(_everywhere([*names]) if kin else [])]


def _everywhere(names: Sequence[str]) -> list[str]:
    """Each in both styles on every background, as the small model's world has them."""
    return [Context(style, colour).prompt(name) for name in names for style in MEDIA for colour in COLOURS]


def _judge(options: TuneOptions, kin: bool) -> Judge | None:
    if options.certificate == "same":
        return None
    if options.clip:
        return dino_clip.load(options.clip, options.dino)
    if kin:
        return pocket_judge.load()
    found = "good, and the judge that ships knows only what pocket and its fine-tunes draw"
    fits = "same, which needs no judge; or --clip openai/clip-vit-large-patch14"
    raise Refusal(Fault("--certificate", found, fits, "name a judge by --clip, or leave --certificate out"))


def _shots(options: TuneOptions, folder: Path) -> Images:
    """Pictures of the subject that the model was taught, where they can still be had."""
    if options.certificate == "same":
        return []
    place, option = options.pictures, "--pictures"
    if place is None:
        place = next_commands.learned_from(folder)
    return [open_picture(each.path) for each in read_folder(place, option=option)] if place else []
