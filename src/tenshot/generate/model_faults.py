"""What a model cannot draw as it is asked, told of its configurations alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tenshot.core.errors import Fault, Refusal, faults_of
from tenshot.core.size import Size
from tenshot.diffusion import samplers
from tenshot.families.base import Family
from tenshot.generate import canvas, second_pass
from tenshot.generate.canvas import MOST_SIDE, Canvas, Pictures
from tenshot.generate.options import GenerateOptions
from tenshot.io import text_files
from tenshot.model.sides import Sides
from tenshot.runtime import compiled_model

CLIP_LAYERS = 12  # where a text encoder's configuration does not say


def faults(options: GenerateOptions) -> Iterator[Fault]:
    """Nothing where the model, or a picture that is drawn on, cannot be read: that is told elsewhere."""
    try:
        folder = compiled_model.folder(compiled_model.find(options.model, vae=options.vae))
        family, sides = compiled_model.examine(folder), Sides.of_folder(folder)
    except Refusal:
        return
    yield from faults_of(partial(samplers.check, *options.sampling, family.process, family.aligned))
    yield from _clip_skip(options, family, folder)
    try:
        pictures = canvas.read(options.init_image, options.mask) if options.init_image else None
    except Refusal:
        return
    drawn = size(options, sides, pictures)
    for name, side in zip(Size._fields, drawn, strict=True):
        if side % sides.multiple or side > (sides.most or side):
            near = min(max(sides.multiple, round(side / sides.multiple) * sides.multiple), sides.most or MOST_SIDE)
            fits = f"multiples of {sides.multiple}" + (f", up to {sides.most}" if sides.most else "")
            yield Fault(f"--{name}", f"{side} pixels, and the model is {family.title}", fits, f"--{name} {near}")
    yield from second_pass.faults(options, drawn, sides)
    yield from faults_of(partial(start, options, drawn, pictures))


def size(options: GenerateOptions, sides: Sides, pictures: Pictures | None) -> Size:
    """What is drawn."""
    usual = pictures.size(sides) if pictures else Size.square(sides.resolution)
    return Size(options.height or usual.height, options.width or usual.width)


def start(options: GenerateOptions, drawn: Size, pictures: Pictures | None) -> Canvas | None:
    """What it is drawn on. Raises Refusal where nothing of a mask is left at this size."""
    around = (options.mask_blur, options.only_masked, options.only_masked_padding, options.mask_content == "fill")
    return pictures.canvas(drawn, *around) if pictures else None


def _clip_skip(options: GenerateOptions, family: Family, folder: Path) -> Iterator[Fault]:
    if not family.clip_skip or options.clip_skip == 1:
        return
    config = text_files.read_object(folder / "text_encoder" / "config.json")
    if options.clip_skip > (layers := int(config.get("num_hidden_layers", CLIP_LAYERS))):
        found = f"{options.clip_skip}, and the model's text encoder has {layers} layers"
        yield Fault("--clip_skip", found, f"1 to {layers}", "2 is what people use, 1 the usual")
