"""What a client asks, whichever API it speaks, as the options that `tenshot generate` would be given."""

from __future__ import annotations

import base64
import binascii
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.core.options import resolve
from tenshot.generate.options import GenerateOptions
from tenshot.serve.library import Library, Served
from tenshot.serve.options import ServeOptions
from tenshot.serve.queue import Row

LONGEST = 20_000  # characters of a prompt
PICTURE = "a PNG, JPEG or WebP in base64, or a data: URI of it"


@dataclass(frozen=True)
class Draft:
    """A request on its way to rows. folder: for its pictures; None: it has none. maps: which control maps are shown."""

    served: Served
    options: Mapping[str, object]
    seeds: Sequence[int]
    variations: Sequence[int] = ()
    folder: Path | None = None
    maps: Sequence[int] = ()


class Desk:
    """Where requests become rows. spool: a folder for their pictures, which nobody else reads."""

    def __init__(self, options: ServeOptions, library: Library, spool: Path) -> None:
        self.options, self.library, self.spool = options, library, spool

    def rows(self, caller: str, draft: Draft) -> list[Row]:
        """One for each seed. Raises Refusal with every fault."""
        told = {
            **self._own(draft.served),
            "lora_dir": self.options.lora_dir,
            "preset": None,
            "seed": 0,
            **{name: value for name, value in draft.options.items() if value is not None},
        }
        options = resolve(GenerateOptions, told)
        refuse_if([*self._over(options, len(draft.seeds), draft.served.side), *options.faults()])
        self.library.check(options.tags)
        name = secrets.token_hex(8)
        rows = []
        for number, seed in enumerate(draft.seeds):
            own = {"seed": seed} | ({"variation_seed": draft.variations[number]} if draft.variations else {})
            rows.append(Row(number, name, caller, options.model_copy(update=own)))
        return rows

    def warm(self, served: Served) -> GenerateOptions:
        """A picture of a model that is drawn for nobody: after it, who asks for one does not wait."""
        told = {"prompt": ["warm"], "steps": 1, "seed": 0, **self._own(served)}
        return resolve(GenerateOptions, told)

    def _own(self, served: Served) -> dict[str, object]:
        """What the server's options say of every picture."""
        return {
            "model": served.given,
            "embedding": self.options.embedding,
            "batch_size": self.options.batch_size,
            "precision": self.options.precision,
            "fallback": self.options.fallback,
            "out": self.spool,  # nothing is written there
        }

    def _over(self, options: GenerateOptions, pictures: int, usual: int) -> Iterator[Fault]:
        """What is more than this server does for one request. usual: the side of a picture that none is said of."""
        limits = self.options
        if not 1 <= pictures <= limits.max_images:
            yield Fault("pictures", f"{pictures} of one request", f"1 to {limits.max_images}", "ask several times")
        least = usual if options.hires_scale else 0
        side = int(max(options.width or least, options.height or least) * (options.hires_scale or 1))
        if side > limits.max_side:
            yield Fault("size", f"{side} pixels", f"{limits.max_side} at most", "ask for a smaller picture")
        if (steps := max(options.steps, options.hires_steps)) > limits.max_steps:
            yield Fault("steps", f"{steps}", f"{limits.max_steps} at most", "ask for fewer")
        for text in (*options.prompt, options.negative_prompt):
            if len(text) > LONGEST:
                yield Fault("prompt", f"{len(text):,} characters", f"{LONGEST:,} at most", "shorten it")

    def folder(self) -> Path:
        """A new one, for the pictures of one request."""
        place = self.spool / secrets.token_hex(8)
        place.mkdir(mode=0o700)
        return place

    def decoded(self, text: str, name: str, folder: Path) -> Path:
        """A picture of base64 as a file called `name`. What is in it is looked at where pictures are read."""
        if text[:5].lower() == "data:":
            text = text.partition(",")[2]
        elif "://" in text[:20]:
            raise Refusal(Fault(name, "an address, and none is fetched", PICTURE, "send the picture itself"))
        try:
            content = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(Fault(name, "no base64", PICTURE, "encode the picture's file")) from None
        return self.saved(content, name, folder)

    def saved(self, content: bytes, name: str, folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    def done(self, folder: Path | None) -> None:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)

    def told(self, refusal: Refusal) -> list[Fault]:
        """The faults in the words of an API, which has neither dashes nor the server's files."""
        return [replace(each, where=self._plain(each.where), found=self._plain(each.found)) for each in refusal.faults]

    def _plain(self, text: str) -> str:
        if str(self.spool) in text:
            before, _, after = text.partition(str(self.spool))
            text = before + after[1:].partition("/")[2]
        for folder in (*self.options.lora_dir, *self.options.controlnet_dir):
            text = text.replace(f"{folder}/", "")
        return text.removeprefix("--")


def seeds(first: int | None, count: int) -> list[int]:
    """first: None or below 0: any."""
    start = secrets.randbelow(2**32) if first is None or first < 0 else first
    return [*range(start, start + max(0, min(count, 1001)))]
