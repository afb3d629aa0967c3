"""The LoRAs and learned words that a picture is to be drawn with, and what its infotext says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tenshot.adapters import adapter_files, embedding, lora
from tenshot.adapters.embedding import Rows
from tenshot.adapters.lora import Lora
from tenshot.core.errors import Fault, Refusal, all_or_refuse
from tenshot.core.json_types import Config
from tenshot.io import hashes
from tenshot.model.model import mentions

STRONGEST = 1000  # more is a slip of the finger


@dataclass(frozen=True)
class RequestedLora:
    """name: what a prompt calls it. place: a file, or a folder. strength: how much it counts."""

    name: str
    place: Path
    strength: float
    content: Lora

    @property
    def file(self) -> Path:
        return adapter_files.files(self.place)[0]


@dataclass(frozen=True)
class RequestedEmbedding:
    """file: its own, or the LoRA's that has it within."""

    word: str
    file: Path
    rows: Rows
    within: bool = False


@dataclass(frozen=True)
class RequestedAdapters:
    loras: Sequence[RequestedLora] = ()
    words: Sequence[RequestedEmbedding] = ()

    def prompt(self, prompt: str) -> str:
        """As one writes it in AUTOMATIC1111, with the LoRAs that were active."""
        return " ".join([prompt, *(f"<lora:{each.name}:{each.strength:g}>" for each in self.loras)])

    def facts(self, prompts: Sequence[str]) -> Config:
        """What infotext says of the LoRAs, and of the words that are in the prompts."""
        words = [each for each in self.words if not each.within]
        said = [each for each in words if any(mentions(prompt, each.word) for prompt in prompts)]
        found = {
            "Lora hashes": [f"{each.name}: {hashes.of_lora(each.file)}" for each in self.loras],
            "TI hashes": [f"{each.file.stem}: {hashes.of_file(each.file)[:12]}" for each in said],
        }
        return {name: ", ".join(each) for name, each in found.items() if each}


def read(loras: Sequence[str], words: Sequence[Path], unet: Config | None = None) -> RequestedAdapters:
    """loras: FILE, FOLDER, or FILE=0.8. unet: the model's configuration. Raises Refusal with the faults of all."""
    *found, said = all_or_refuse(*(partial(_lora, each, unet) for each in loras), lambda: embedding.read_all(words))
    within = [
        RequestedEmbedding(word, each.place, rows, True) for each in found for word, rows in each.content.words.items()
    ]
    words_of = {(each.word, each.file): each for each in [*(RequestedEmbedding(*each) for each in said), *within]}
    return RequestedAdapters(found, [*words_of.values()])  # of a file that is given twice, once


def _lora(given: str, unet: Config | None) -> RequestedLora:
    place, strength = _strength(given)
    if not place.exists():
        do = "write FILE=0.8 for a strength" if ":" in given else "tenshot train lora makes one"
        raise Refusal(Fault("--lora", f"{place}: no such file or folder", "a LoRA file, or its folder", do))
    name = place.stem
    if place.is_dir() or place.name in adapter_files.FILES:
        name = (place if place.is_dir() else place.parent).resolve().name
    return RequestedLora(name, place, strength, lora.read(place, unet))


def _strength(given: str) -> tuple[Path, float]:
    """FILE=0.8 -> FILE and 0.8. Raises Refusal where what follows the sign is no number."""
    if Path(given).exists() or "=" not in given:
        return Path(given), 1.0
    place, _, strength = given.rpartition("=")
    try:
        number = float(strength)
    except ValueError:
        found = f"{given}: {strength!r} is no number"
        raise Refusal(Fault("--lora", found, "FILE, or FILE=0.8", f"--lora {place}=0.8")) from None
    if not -STRONGEST <= number <= STRONGEST:
        found = f"{given}: a strength of {strength}"
        raise Refusal(Fault("--lora", found, f"from -{STRONGEST} to {STRONGEST}", "1 is as it was trained"))
    return Path(place), number
