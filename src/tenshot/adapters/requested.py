"""The LoRAs and learned words that a picture is to be drawn with, and what its infotext says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tenshot.adapters import adapter_files, embedding, lora, lora_names
from tenshot.adapters.embedding import Rows
from tenshot.adapters.lora import Lora
from tenshot.core.errors import Fault, Refusal, all_or_refuse
from tenshot.core.events import Events
from tenshot.core.hub_names import HubName
from tenshot.core.json_types import Config
from tenshot.io import hashes
from tenshot.model import hub
from tenshot.model.model import mentions
from tenshot.prompt.syntax import LoraTag

STRONGEST = 1000  # more is a slip of the finger


@dataclass(frozen=True)
class RequestedLora:
    """name: what a prompt calls it. place: a file or folder. strengths: in the text encoders, and in the denoiser."""

    name: str
    place: Path
    strengths: tuple[float, float]
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
    """loras: for all prompts. words: learned ones. tagged: those that prompts name themselves."""

    loras: Sequence[RequestedLora] = ()
    words: Sequence[RequestedEmbedding] = ()
    tagged: Mapping[LoraTag, RequestedLora] = field(default_factory=dict)

    def on(self, tags: Sequence[LoraTag]) -> list[RequestedLora]:
        """The LoRAs of a prompt that names these."""
        return [*self.loras, *(self.tagged[tag] for tag in tags)]

    def strengths(self, tags: Sequence[LoraTag]) -> dict[str | Path, tuple[float, float]]:
        """By place; what is asked for twice counts as the sum."""
        found: dict[str | Path, tuple[float, float]] = {}
        for each in self.on(tags):
            before = found.get(each.place, (0.0, 0.0))
            found[each.place] = before[0] + each.strengths[0], before[1] + each.strengths[1]
        return found

    def prompt(self, prompt: str) -> str:
        """As one writes it in AUTOMATIC1111, with the LoRAs for all prompts beside those that it names itself."""
        return " ".join([prompt, *(_tag(each) for each in self.loras)])

    def facts(self, prompts: Sequence[str], tags: Sequence[LoraTag] = ()) -> Config:
        """What infotext says of the LoRAs, and of the words that are in the prompts."""
        words = [each for each in self.words if not each.within]
        said = [each for each in words if any(mentions(prompt, each.word) for prompt in prompts)]
        found = {
            "Lora hashes": [f"{each.name}: {hashes.of_lora(each.file)}" for each in self.on(tags)],
            "TI hashes": [f"{each.file.stem}: {hashes.of_file(each.file)[:12]}" for each in said],
        }
        return {name: ", ".join(each) for name, each in found.items() if each}


def _tag(lora: RequestedLora) -> str:
    text_encoder, denoiser = lora.strengths
    told = f"{text_encoder:g}" if text_encoder == denoiser else f"{text_encoder:g}:{denoiser:g}"
    return f"<lora:{lora.name}:{told}>"


def read(
    loras: Sequence[str],
    words: Sequence[Path],
    unet: Config | None = None,
    tags: Sequence[LoraTag] = (),
    folders: Sequence[Path] = (),
    events: Events | None = None,
) -> RequestedAdapters:
    """loras: FILE, FOLDER, or FILE=0.8. unet: the model's configuration. tags: LoRAs by name, to be found in `folders`.

    Raises Refusal with the faults of all.
    """
    tags = list(dict.fromkeys(tags))
    said, *found = all_or_refuse(
        lambda: embedding.read_all(words),
        *(partial(_lora, each, unet) for each in loras),
        *(partial(_tagged, tag, folders, unet, events) for tag in tags),
    )
    within = [
        RequestedEmbedding(word, each.place, rows, True) for each in found for word, rows in each.content.words.items()
    ]
    words_of = {(each.word, each.file): each for each in [*(RequestedEmbedding(*each) for each in said), *within]}
    named = dict(zip(tags, found[len(loras) :], strict=True))
    return RequestedAdapters(found[: len(loras)], [*words_of.values()], named)  # of a file that is given twice, once


def _lora(given: str, unet: Config | None) -> RequestedLora:
    place, strength = _strength(given)
    if not place.exists():
        do = "write FILE=0.8 for a strength" if ":" in given else "tenshot train lora makes one"
        raise Refusal(Fault("--lora", f"{place}: no such file or folder", "a LoRA file, or its folder", do))
    return RequestedLora(lora_names.name_of(place), place, (strength, strength), lora.read(place, unet))


def _tagged(tag: LoraTag, folders: Sequence[Path], unet: Config | None, events: Events | None) -> RequestedLora:
    told = (tag.text_encoder, tag.denoiser)
    if not all(-STRONGEST <= each <= STRONGEST for each in told):
        found = f"<lora:{tag.name}>: strengths of {told[0]:g} and {told[1]:g}"
        raise Refusal(Fault("--prompt", found, f"from -{STRONGEST} to {STRONGEST}", "1 is as it was trained"))
    place = lora_names.find(tag.name, folders)
    if isinstance(place, HubName):
        place = hub.look(place, "lora", half=True, where="--prompt").fetched(events or Events())
    return RequestedLora(tag.name, place, told, lora.read(place, unet))


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
