"""The door of a training: all that it would read, and where it would write, is looked at once, and refused together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tenshot.adapters import adapter_files, embedding
from tenshot.core import device, distributed
from tenshot.core.errors import Fault, Refusal, all_or_refuse, refuse_if
from tenshot.core.events import Events
from tenshot.diffusion.process import PROCESSES, Process
from tenshot.export import install
from tenshot.families import validate
from tenshot.io import dataset, hashes, text_files
from tenshot.io.image_folder import Example
from tenshot.model import model
from tenshot.train.data import prior_images
from tenshot.train.engine import optimizers, run
from tenshot.train.options import FineTuneOptions, TrainOptions
from tenshot.train.training_method import Options, TrainingMethod

Prior = tuple[Path, prior_images.Recipe]


@dataclass(frozen=True)
class Prepared:
    """What the options turned out to mean. place: the model's folder. identity: what makes this run this run.

    foretold: has been said what the whole will take?
    """

    where: torch.device
    place: Path
    examples: list[Example]
    prior: Prior | None
    identity: run.Identity
    foretold: bool = False


def check(method: TrainingMethod[Options], options: Options, events: Events) -> Prepared:
    """Look at all that a training would read and where it would write. Raises Refusal with everything wrong."""
    try:
        where, place, examples, brought = _check_inputs(method, options, events)
    except Refusal as refusal:
        unread = run.identity(method.name, options)
        raise Refusal(*refusal.faults, *run.folder_faults(options, unread)) from None
    folder = method.source(options).folder
    identity = run.identity(method.name, options, _inputs(options, folder, place, examples, brought, events))
    trained = method.trained(options, place)
    whole = sum(validate.numbers(place / part) for part in validate.family_of(place).nets)
    prior, *_ = all_or_refuse(
        lambda: _prior(options, place, identity),
        lambda: refuse_if(run.folder_faults(options, identity)),
        lambda: refuse_if([] if trained else [_nothing_trains(method, options, place)]),
        lambda: run.check_disk(options, 4 * trained, 4 * (whole if method.saves_model else trained)),
    )
    return Prepared(where, place, examples, prior, identity)


def _check_inputs(
    method: TrainingMethod[Options], options: Options, events: Events
) -> tuple[torch.device, Path, list[Example], list[Example]]:
    """The device, the model's folder, the pictures, and the class pictures that are already there."""
    where, place, examples, _, brought, *_ = all_or_refuse(
        lambda: device.pick(options.device),
        lambda: _model_folder(options, events),
        lambda: _examples(method, options, events),
        lambda: refuse_if((*options.faults(), *_method_faults(method, options), *method.faults(options))),
        lambda: options.class_data_dir and prior_images.present(options.class_data_dir, options.num_class_images),
        lambda: optimizers.check(options, options.device),
        lambda: optimizers.check_compiler(options),
        lambda: install.check(options.export, method.results(options)),
    )
    refuse_if(_not_yours(options, examples, brought or ()))
    if any(each.caption for each in brought or ()):
        events.say(
            f"captions beside class pictures are not read: --class_prompt {options.class_prompt!r} is said of all"
        )
    return where, place, examples, brought or []


def _nothing_trains(method: TrainingMethod[Options], options: Options, place: Path) -> Fault:
    found = f"{validate.family_of(place).title} has no weights that {method.name} trains"
    do = "choose another model, or another method: tenshot train --help"
    return Fault(f"--pretrained_model_name_or_path {options.pretrained_model_name_or_path}", found, "one that has", do)


def _examples(method: TrainingMethod[Options], options: Options, events: Events) -> list[Example]:
    source, column, masks = method.source(options), options.caption_column, options.mask_dir
    found = dataset.read(source.folder, option=source.option, column=column, masks=masks, say=events.say)
    if source.prompt is None:
        bare = [each.path.name for each in found if not each.caption]
        if bare:
            few = ", ".join(bare[:4]) + (", ..." if len(bare) > 4 else "")
            fits = "a caption for every picture: NAME.txt beside it, or metadata.jsonl"
            told = f"{len(bare)} of {len(found)} pictures have no caption: {few}"
            verb = method.name if "instance_prompt" in type(options).model_fields else "dreambooth"
            do = f"write them, or use tenshot train {verb} with --instance_data_dir and one --instance_prompt"
            raise Refusal(Fault(source.option, told, fits, do))
    refuse_if(method.unsaid(options, found))
    return found


def _not_yours(options: FineTuneOptions, own: Sequence[Example], brought: Sequence[Example]) -> Iterator[Fault]:
    mine = {each.digest for each in own}
    same = [each.path.name for each in brought if each.digest in mine]
    if same:
        found = f"{len(same)} of its pictures are among your own: {', '.join(same[:4])}"
        fits = "pictures of the class without your subject"
        yield Fault(f"--class_data_dir {options.class_data_dir}", found, fits, "remove them")


def _method_faults(method: TrainingMethod[Options], options: Options) -> Iterator[Fault]:
    if options.rescale_betas_zero_snr and not method.saves_model:
        found = "the noise schedule is part of a model, and what comes out here is none"
        fits, do = "a model whose schedule has it", "leave it out, or make such a model: tenshot train full with it"
        yield Fault("--rescale_betas_zero_snr", found, fits, do)
    yield from process_faults(options)
    if options.fsdp:
        yield from _split_faults(method, options)


def process_faults(options: TrainOptions) -> Iterator[Fault]:
    """What does not go with several processes."""
    if options.fit_memory and options.num_processes * distributed.world_size() > 1:
        found = "several processes would each settle on something else"
        yield Fault("--fit_memory", found, "one process", "run with one, and use the recipe that it writes")
    if options.device not in ("auto", "cpu") and options.num_processes * distributed.world_size() > 1:
        yield Fault(
            "--device", f"{options.device} for several processes", "auto (each its own), or cpu", "leave it out"
        )


def _split_faults(method: TrainingMethod[Options], options: Options) -> Iterator[Fault]:
    if options.num_processes * distributed.world_size() == 1:
        yield Fault("--fsdp", "one process, and nothing to split over", "several", "add --num_processes 2, or more")
    if not method.saves_model:
        found = f"{method.name} trains too little to split"
        yield Fault(
            "--fsdp",
            found,
            "a method that saves a whole model",
            "leave it out: the processes share the work without it",
        )
    if options.validation_prompt:
        found = "no process has the whole model to draw with"
        yield Fault("--validation_prompt", found, "no drawings beside --fsdp", "draw from the result afterwards")
    if optimizers.chosen(options) != "adamw":
        do = "leave --use_8bit_adam out" if options.use_8bit_adam else "--optimizer adamw"
        yield Fault("--optimizer", f"{optimizers.chosen(options)} beside --fsdp", "adamw", do)


def _model_folder(options: FineTuneOptions, events: Events) -> Path:
    place = model.find(options.pretrained_model_name_or_path, events, options.vae)
    process = validate.examine(place).process
    schedule = text_files.read_object(place / "scheduler" / "scheduler_config.json")
    refuse_if((*_foreign(options, process), *process.training_faults(schedule, options)))
    return place


def _foreign(options: FineTuneOptions, process: type[Process]) -> Iterator[Fault]:
    """Options that are about another process than the model's."""
    for other in PROCESSES:
        for name in set(other.options) - set(process.options):
            if getattr(options, name) != FineTuneOptions.model_fields[name].default:
                found = f"is about {other.title}, and this model's process is {process.title}"
                yield Fault(f"--{name}", found, ", ".join(f"--{each}" for each in process.options), "leave it out")


def _prior(options: FineTuneOptions, place: Path, identity: run.Identity) -> Prior | None:
    """Where class pictures lie or will lie, and what they are drawn by; None without prior preservation.

    Raises Refusal where others lie there.
    """
    if not options.with_prior_preservation:
        return None
    family, config = validate.family_of(place), validate.denoiser_config(place)
    side = options.resolution or config.get("sample_size", 64) * 8
    wanted = prior_images.recipe(str(identity["inputs"]["model"]), options.class_prompt or "", side, family.process)
    folder = options.class_data_dir or prior_images.cached(wanted, options.seed)
    prior_images.check_recipe(folder, wanted)
    return folder, wanted


def _inputs(
    options: FineTuneOptions,
    folder: Path,
    place: Path,
    examples: Sequence[Example],
    brought: Sequence[Example],
    events: Events,
) -> dict[str, object]:
    """Digests of all that is read. folder: the pictures'; place: the model's."""
    names = {each.path: str(each.path.relative_to(folder)) for each in examples}
    return {
        "files": digests(options),
        "model": hashes.of_model(place, events=events),
        "pictures": {names[each.path]: each.digest[:16] for each in examples},
        "captions": _captions(names, examples),
        "repeats": {names[each.path]: each.repeats for each in examples if each.repeats != 1},
        "masks": {names[each.path]: hashes.of_file(each.mask)[:16] for each in examples if each.mask},
        "class_pictures": prior_images.brought(brought),
    }


def _captions(names: Mapping[Path, str], examples: Sequence[Example]) -> dict[str, object]:
    """What is said of each picture; a list where a table says several things."""
    found: dict[str, list[str]] = {}
    for each in examples:
        if each.caption:
            found.setdefault(names[each.path], []).append(each.caption)
    return {name: said if len(said) > 1 else said[0] for name, said in found.items()}


def digests(options: TrainOptions) -> dict[str, list[str]]:
    """Of the adapters that the options name."""
    return {name: _digests(value) for name, value in options if name in run.FILES and value}


def _digests(places: Path | Sequence[Path]) -> list[str]:
    """Of adapters: files, or folders that hold them."""
    return [
        hashes.of_file(file)[:16]
        for place in ([places] if isinstance(places, Path) else places)
        for file in (_within(place) if place.is_dir() else [place])
    ]


def _within(folder: Path) -> Iterator[Path]:
    """What is read in the folder of a LoRA or of a learned word."""
    for file in adapter_files.files(folder) or [embedding.file_in(folder)]:
        yield file
        if (beside := embedding.partner(file) or file.with_name(adapter_files.CONFIG)).is_file():
            yield beside
