"""What `tenshot generate` is told."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from os.path import exists, isdir
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from tenshot.core.errors import Fault, Refusal, faults_of
from tenshot.core.hub_names import HubName, Kind
from tenshot.core.option_text import command
from tenshot.core.options import Options, as_words
from tenshot.core.recipes import Recipe, Say
from tenshot.diffusion.samplers import AUTOMATIC, SAMPLERS, Schedule, names, parted
from tenshot.diffusion.upscalers import LATENT, UPSCALERS
from tenshot.generate import controlnet_options, matrix, prompt_options
from tenshot.generate.controlnet_options import Preprocessor, Resize
from tenshot.io import destinations
from tenshot.io.picture_formats import FORMATS, JPEG_TEXT, OTHERS, WEBP_SIDE
from tenshot.option_types import (
    ControlNetUnit,
    Device,
    Few,
    FilePath,
    FolderPath,
    LoraPath,
    Model,
    PresetKind,
    Side,
    UpscalerName,
    VaePath,
    WordPath,
)
from tenshot.prompt.faults import prompt_faults
from tenshot.prompt.syntax import Emphasis, LoraTag, without_loras


def _sampler(name: str) -> str:
    if parted(name)[0] not in SAMPLERS:
        raise ValueError("no sampler that is known here")
    return name


Sampler = Annotated[str, AfterValidator(_sampler), Field(json_schema_extra={"enum": [*SAMPLERS]})]


def _off_at_one(scale: float | None) -> float | None:
    return None if scale == 1 else scale


Scale = Annotated[float, Field(ge=1, le=8)]


def _again(picture: Path, say: Say) -> Mapping[str, object]:
    from tenshot import generation_parameters

    found = generation_parameters.read(picture, f"--from {picture}")
    for note in (*generation_parameters.elsewhere(found.facts), *generation_parameters.lost(found.facts)):
        say(f"{picture.name} {note}")
    return generation_parameters.as_options(found)


def _prompts(file: Path, say: Say) -> Mapping[str, object]:
    from tenshot.generate import prompt_file

    return prompt_file.read(file, GenerateOptions, say)


def _if_any(own: list[str]) -> list[str]:
    return own if any(each.strip() for each in own) else []


PROMPTS = 'a prompt a line, or as WebUI has it (--prompt "a cat" --steps 10), after those of --prompt.'
AGAIN = "a picture, to be drawn again; it wins over --recipe, the command line over both."
#: Options that mean nothing without another one.
NEEDED = {
    "strength": "init_image",
    "mask": "init_image",
    "only_masked": "mask",
    "mask_content": "mask",
    "mask_blur": "mask",
    "only_masked_padding": "only_masked",
    "variation_seed": "variation_strength",
    "canny_low": "controlnet",
    "canny_high": "controlnet",
    "control_image": "controlnet",
    "control_preprocessor": "controlnet",
    "control_mode": "controlnet",
    "control_resize": "controlnet",
    "hires_steps": "hires_scale",
    "hires_strength": "hires_scale",
    "hires_upscaler": "hires_scale",
}


#: What infotext does not say, so that it goes beside --from.
UNTOLD = frozenset(
    (
        *("model", "vae", "lora_dir", "embedding", "init_image", "strength", "mask", "mask_blur", "only_masked"),
        *("only_masked_padding", "controlnet", "control_image", "control_preprocessor", "control_mode", "canny_low"),
        *("canny_high", "mask_content", "batch_size", "precision", "device", "fallback", "out", "format", "quality"),
    )
)


def _drawn_here(file: Path) -> bool:
    from tenshot.io.png import read_infotext

    with suppress(Refusal):
        return "Version: tenshot" in (read_infotext(file) or "")
    return False


class GenerateOptions(Options):
    """Make pictures from a prompt. The same seed gives the same picture, to the bit with --batch_size 1."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        **Options.recipes,
        "from": Recipe(_again, "picture", AGAIN, ("prompt",)),
        "prompt_file": Recipe(_prompts, "text file", PROMPTS, ("prompt",), joins=("prompt", "prompt_options")),
    }

    half_serves: ClassVar[bool] = True

    model: Model = Field(
        "pocket", description="pocket, a model folder, a checkpoint file, what compile made, or org/name of the hub"
    )
    vae: VaePath | None = Field(None, description="a VAE, file or folder, in place of the model's own")
    prompt: list[str] = Field(
        min_length=1, description="what to draw, as WebUI has it: (word:1.2), <lora:name:0.8>; again for more prompts"
    )
    prompt_options: Annotated[list[str], AfterValidator(_if_any)] = Field(
        [], description='of each prompt alone, of the last ones where these are fewer: "steps=10 seed=3"'
    )
    lora: list[LoraPath] = Field(
        [], description="a LoRA (LoHa, LoKr): file, folder, or org/name of the hub; FILE=0.8: at that strength"
    )
    lora_dir: list[FolderPath] = Field(
        [], description="where <lora:name> is looked for, in place of this folder, loras, out and models/Lora"
    )
    embedding: list[WordPath] = Field(
        [], description="a learned word, as the prompt says it: a file, diffusers' folder, or org/name of the hub"
    )
    negative_prompt: str = Field("", description="what to keep away from")
    seed: int = Field(-1, ge=-1, lt=2**63, description="of the first picture, the next ones count on; -1: any")
    num_images: int = Field(1, ge=1, le=1_000_000, description="pictures for each prompt")
    variation_seed: int = Field(0, ge=0, lt=2**63, description="whose noise is mixed in, by --variation_strength")
    variation_strength: float = Field(0, ge=0, le=1, description="0: the seed's own noise; 1: that of --variation_seed")
    init_image: FilePath | None = Field(None, description="a picture to begin with")
    strength: float = Field(
        0.75, gt=0, le=1, description="how far from --init_image: near 0 it stays, of 1 little of it does"
    )
    mask: FilePath | None = Field(None, description="white where --init_image may change: a picture of its size")
    mask_blur: float = Field(4, ge=0, le=1000, description="pixels over which what is drawn fades into what stays")
    mask_content: Literal["original", "fill", "noise", "nothing"] = Field(
        "original", description="what is there to begin with; fill: the colours around; noise, nothing: as latents"
    )
    only_masked: bool = Field(False, description="draw the part around the mask alone, large, and put it back")
    only_masked_padding: int = Field(32, ge=0, le=16384, description="pixels around the mask that are drawn, too")
    controlnet: list[ControlNetUnit] = Field(
        [], description="a ControlNet: pocket-canny, file, folder, org/name of the hub; NAME=0.8@0-0.5: weight, steps"
    )
    control_image: list[FilePath] = Field([], description="what it sees; one for all of them, or one for each")
    control_preprocessor: list[Preprocessor] = Field(
        ["none"], min_length=1, description="what is made of --control_image first; none: it is the map already"
    )
    control_mode: list[Literal["balanced", "prompt", "control"]] = Field(
        ["balanced"], min_length=1, description="what counts more, the prompt or the control picture, as in WebUI"
    )
    control_resize: list[Resize] = Field(
        ["crop"], min_length=1, description="how --control_image becomes of the shape that is drawn; fill: with a frame"
    )
    canny_low: int = Field(100, ge=0, le=10_000, description="canny: edges from here on, where they go on from others")
    canny_high: int = Field(200, ge=0, le=10_000, description="canny: from here on what is an edge for certain")
    steps: int = Field(20, ge=1, le=1000, description="denoising steps")
    sampler: Sampler | None = Field(
        None, description=f"how noise becomes a picture; default: {names('ddpm')[0]}, for a flow {names('flow')[0]}"
    )
    schedule: Schedule = Field(AUTOMATIC, description="of the amounts of noise; automatic: the sampler's own")
    guidance_scale: float = Field(7.5, ge=1, le=1000, description="how closely the prompt is followed; 1: no guidance")
    guidance_start: float = Field(0, ge=0, le=1, description="from where on, as a share of the steps")
    guidance_end: float = Field(1, ge=0, le=1, description="to where, likewise; .8 saves a tenth of the work")
    preset: PresetKind | None = Field(
        "same",
        description="of tenshot tune, where the model has one and none of sampler ... guidance is named; or none",
    )
    clip_skip: int = Field(1, ge=1, le=12, description="the layer of the text encoder that counts, from the last; SD1")
    emphasis: Emphasis = Field("original", description="after (word:1.2): the mean is restored, or not; or no emphasis")
    width: Side | None = Field(None, description="pixels; default: the model's own")
    height: Side | None = Field(None, description="pixels; default: the model's own")
    hires_scale: Annotated[Scale | None, AfterValidator(_off_at_one)] = Field(
        None, description="drawn once more, so many times larger (WebUI: Hires. fix); 1: not"
    )
    hires_upscaler: UpscalerName = Field(
        LATENT, description=f"what enlarges it: {', '.join(UPSCALERS)}, or the file of a net such as ESRGAN"
    )
    hires_strength: float = Field(0.7, gt=0, le=1, description="how much of the way is gone anew, as of --strength")
    hires_steps: int = Field(0, ge=0, le=1000, description="steps of the second pass; 0: as many as --steps")
    batch_size: Few = Field(4, description="pictures drawn at once; single values may then be one level of 255 off")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="number format of the nets")
    device: Device = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    fallback: bool = Field(False, description="a model compiled for another machine: let torch run it")
    matrix: list[str] = Field(
        [], description='an option and values, "steps=10,20,30": all of them on a sheet; again for more axes'
    )
    grid: bool = Field(False, description="all pictures on a sheet, too")
    preview_every: int = Field(
        0, ge=0, le=1_000_000, description="steps after which a small picture beside --out shows what is drawn; 0: none"
    )
    out: Path = Field(Path("out/pictures"), description="a folder, or a .png, .jpg or .webp file for a single picture")
    format: Literal["png", "jpeg", "webp"] | None = Field(None, description="of the files in a folder; default: png")
    quality: int = Field(90, ge=1, le=100, description="of JPEG and WebP, which are a little off what was drawn")

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        for option, prompts in (("--prompt", self.prompt), ("--negative_prompt", [self.negative_prompt])):
            yield from prompt_faults(option, prompts)
        fields = type(self).model_fields
        for name, of in NEEDED.items():
            told = name in self.model_fields_set and getattr(self, name) != fields[name].get_default(
                call_default_factory=True
            )
            if told and not getattr(self, of):
                yield Fault(f"--{name}", f"without --{of}", f"--{of}", f"give it, or leave --{name} out")
        if self.guidance_start >= self.guidance_end:
            found = f"{self.guidance_end:g}, and --guidance_start is {self.guidance_start:g}"
            yield Fault("--guidance_end", found, "more than --guidance_start", "--guidance_scale 1 draws without")
        yield from self.control_faults()
        if self.hires_scale and self.init_image:
            do = "leave it out; to enlarge a picture: --init_image FILE --width W --height H --strength 0.4"
            yield Fault("--hires_scale", "a second pass with --init_image", "a second pass of what a prompt draws", do)
        if self.matrix:
            yield from matrix.faults(self, self.matrix)
        if self.prompt_options:
            yield from prompt_options.faults(self, self.prompt, self.prompt_options)
        if self.prompt_options and self.matrix:
            found = "given with prompts that have options of their own"
            yield Fault("--matrix", found, "one of them", "an axis of prompts: --matrix prompt=...")
        if self.grid and self.matrix:
            yield Fault("--grid", "given with --matrix, which makes sheets of its own", "one of them", "leave it out")
        if self.names_a_picture and (self.matrix or self.grid):
            what = "a matrix" if self.matrix else "pictures and their sheet"
            yield Fault("--out", f"one file for {what}", "a folder", f"leave {self.out.suffix} out")
        elif self.names_a_picture and len(self.prompt) * self.num_images > 1:
            several = (
                f"{self.num_images} pictures of a prompt" if self.num_images > 1 else f"{len(self.prompt)} pictures"
            )
            yield Fault("--out", f"one file for {several}", "a folder", f"leave {self.out.suffix} out")
        yield from self._format_faults()
        if self.sampler and self.schedule != AUTOMATIC and parted(self.sampler)[1] not in (AUTOMATIC, self.schedule):
            yield Fault("--schedule", f"{self.schedule}, but --sampler {self.sampler}", "one of them", "leave one out")

    def _format_faults(self) -> Iterator[Fault]:
        if self.out.suffix.lower() in OTHERS and not isdir(self.out):
            yield Fault(
                "--out", f"{self.out.suffix} is not written here", "a folder, or " + ", ".join(FORMATS), "take one"
            )
        kind = FORMATS[self.suffix.lower()]
        if self.format not in (None, kind):
            yield Fault("--format", f"{self.format}, but --out {self.out}", kind, "leave --format out")
        if kind == "png" and self.quality != type(self).model_fields["quality"].default:
            yield Fault("--quality", "given for PNG, which loses nothing", "--format jpeg or webp", "leave it out")
        if kind == "webp" and max(self.width or 0, self.height or 0) * (self.hires_scale or 1) > WEBP_SIDE:
            yield Fault("--format", "webp for more than its 16,383 pixels", "png or jpeg", "choose one of them")
        texts = [len((each + self.negative_prompt).encode("utf-16-be", "replace")) for each in self.prompt]
        if kind == "jpeg" and max(texts, default=0) > JPEG_TEXT:
            fits = f"{JPEG_TEXT // 2:,} characters at most"
            yield Fault(
                "--format", f"jpeg, which cannot hold a text of {max(texts) // 2:,} characters", fits, "take png"
            )

    def control_faults(self) -> Iterator[Fault]:
        """What is wrong with the numbers of ControlNets, and of what belongs to them."""
        for each in self.controlnet:
            yield from controlnet_options.faults(each)
        counts = ("control_image", "control_preprocessor", "control_mode", "control_resize")
        told = {name: len(getattr(self, name)) for name in counts}
        yield from controlnet_options.miscounts(len(self.controlnet), **told)
        if self.controlnet and self.canny_low > self.canny_high:
            found = f"{self.canny_low}, and --canny_high is {self.canny_high}"
            yield Fault("--canny_low", found, "at most --canny_high", "100 and 200 are the usual ones")

    def obstacles(self) -> Iterator[Fault]:
        folder = self.out.parent if self.names_a_picture else self.out
        if hurdle := destinations.misnamed(self.out) or destinations.obstacle(folder):
            yield Fault("--out", hurdle, "a folder, or a .png, .jpg or .webp file", "choose another name")
        elif self.names_a_picture and exists(self.out) and not _drawn_here(self.out):
            fits = "a new name, or a picture that Tenshot drew, which is drawn anew"
            yield Fault("--out", f"{self.out} is not one of Tenshot's pictures", fits, "choose another name")
        if self.preview_every:
            yield from self._preview_faults()

    def contents(self, wrong: Container[str] = ()) -> Iterator[Fault]:
        if self.tags and "lora_dir" not in wrong:
            from tenshot.adapters import lora_names
            from tenshot.model import hub

            for tag in self.tags:
                yield from faults_of(partial(lora_names.find, tag.name, self.lora_dir))
            for _, name, kind in self.named_within():
                yield from faults_of(partial(hub.look, name, kind, half=True, where="--prompt"))
        if self.init_image and all(each.is_file() for each in (self.init_image, self.mask) if each):
            from tenshot.generate import canvas

            yield from faults_of(partial(canvas.read, self.init_image, self.mask))
        if self.controlnet:
            yield from self._faults_of_controlnets(wrong)

    def _faults_of_controlnets(self, wrong: Container[str]) -> Iterator[Fault]:
        from tenshot.generate import controlnet_faults
        from tenshot.io.images import open_picture

        for image in dict.fromkeys(self.control_image):
            yield from faults_of(partial(open_picture, image)) if image.is_file() else ()
        sure = not any(name in wrong for name in ("model", "vae", "controlnet"))
        if sure and controlnet_faults.here(self.model, self.vae, self.controlnet):
            yield from controlnet_faults.faults(self.model, self.vae, self.controlnet, self.control_preprocessor)

    def named_within(self) -> Iterator[tuple[str, HubName, Kind]]:
        if not any("/" in tag.name for tag in self.tags):
            return
        from tenshot.adapters import lora_names

        for tag in self.tags:
            with suppress(Refusal):
                if isinstance(found := lora_names.find(tag.name, self.lora_dir), HubName):
                    yield "prompt", found, "lora"

    def _preview_faults(self) -> Iterator[Fault]:
        from tenshot.generate import preview

        place = preview.place(self.out, self.names_a_picture)
        if exists(place) and not preview.is_one(place):
            do = "move it, or leave --preview_every out"
            yield Fault("--preview_every", f"{place} is there, and no preview of Tenshot's", "a place for one", do)

    def next_commands(self) -> Sequence[str]:
        more = self.model_copy(update={"num_images": 8})
        if self.matrix:  # whichever picture on the sheet is liked
            axes = {each.name for each in matrix.axes(type(self), self.matrix)}
            leave = type(self).model_fields.keys() - UNTOLD | axes
            return (command("generate", "--from", "PICTURE", "--seed", -1, *as_words(more, [*leave - {"num_images"}])),)
        leave = {"out", "seed"} if self.names_a_picture else {"seed"}
        return (command("generate", *as_words(more, [*leave])),)

    @property
    def tags(self) -> list[LoraTag]:
        """The LoRAs that prompts name; of prompts at fault none."""
        found: list[LoraTag] = []
        for prompt in self.prompt:
            with suppress(ValueError):
                found += without_loras(prompt)[1]
        return found

    @property
    def sampling(self) -> tuple[str | None, Schedule]:
        """The sampler and the schedule, whichever of them the sampler's name says."""
        name, schedule = parted(self.sampler) if self.sampler else (None, AUTOMATIC)
        return name, self.schedule if schedule == AUTOMATIC else schedule

    @property
    def names_a_picture(self) -> bool:
        """Is --out the picture itself?"""
        return self.out.suffix.lower() in FORMATS and not isdir(self.out)

    @property
    def suffix(self) -> str:
        """Of the files that are drawn."""
        kind = self.format or "png"
        return self.out.suffix if self.names_a_picture else next(each for each, of in FORMATS.items() if of == kind)
