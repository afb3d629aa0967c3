"""How each method teaches one subject: the options that its documentation names, for the size of the model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenshot.core import device
from tenshot.core.options import resolve
from tenshot.evaluate.protocol import article
from tenshot.families import validate
from tenshot.io import tensors
from tenshot.io.image_folder import Example
from tenshot.train.learning_rates import SMALL, usual
from tenshot.train.methods import dreambooth, full, lora, textual_inversion
from tenshot.train.options import DreamBoothOptions, FineTuneOptions, FullOptions, LoraOptions, TextualInversionOptions
from tenshot.train.subject_options import Method, SubjectOptions
from tenshot.train.training_method import TrainingMethod


@dataclass(frozen=True)
class Way:
    """verb: of `tenshot train`. takes: what it is to be at drawing, for people. small, large: options for a model of
    less than SMALL numbers, and for others."""

    title: str
    verb: str
    method: TrainingMethod[Any]
    kind: type[FineTuneOptions]
    takes: str
    small: Mapping[str, object]
    large: Mapping[str, object]


STEPS = {"train_batch_size": 4, "max_train_steps": 300}
LORA = {"rank": 8, "layers": "transformer"}
LARGE = {"max_train_steps": 400}
MODEL, FILE = "the whole model", "the base model and one file"
WAYS: dict[Method, Way] = {
    "dreambooth": Way("DreamBooth", "dreambooth", dreambooth.METHOD, DreamBoothOptions, MODEL, STEPS, LARGE),
    "dreambooth-no-prior": Way(
        "DreamBooth, no prior",
        "dreambooth",
        dreambooth.METHOD,
        DreamBoothOptions,
        MODEL,
        STEPS,
        LARGE,
    ),
    "lora": Way("LoRA", "lora", lora.METHOD, LoraOptions, FILE, STEPS | LORA, {"max_train_steps": 500} | LORA),
    "textual-inversion": Way(
        "textual inversion",
        "textual-inversion",
        textual_inversion.METHOD,
        TextualInversionOptions,
        FILE,
        STEPS | {"num_vectors": 8},
        {"max_train_steps": 2000, "num_vectors": 4},
    ),
    "full": Way("full fine-tuning", "full", full.METHOD, FullOptions, MODEL, STEPS, LARGE),
}


LOOKS = 5  # times that validation pictures are drawn in a training


@dataclass(frozen=True)
class Places:
    """Folders of one training. captioned: the pictures with a caption each. classes: of class pictures; None: the
    cache's."""

    output: Path
    captioned: Path
    classes: Path | None = None


def called(options: SubjectOptions, method: Method) -> str:
    """What prompts call the subject after training."""
    return f"<{options.identifier}>" if method == "textual-inversion" else options.noun


def validation_prompt(options: SubjectOptions, method: Method) -> str:
    return f"a photo of {called(options, method)}"


def training(options: SubjectOptions, method: Method, seed: int, place: Path, places: Places) -> FineTuneOptions:
    """The options of one training, its learning rate, too. place: the model's folder."""
    way, family = WAYS[method], validate.family_of(place)
    numbers = validate.numbers(place / family.denoiser)
    told: dict[str, Any] = {
        **(way.small if numbers < SMALL else way.large),
        "pretrained_model_name_or_path": options.model,
        "output_dir": places.output,
        "learning_rate": usual(way.kind, way.method.name, family.name, numbers),
        "seed": seed,
        "checkpoints_total_limit": 1,
        "device": options.device,
    }
    if numbers >= SMALL:  # smaller nets are no faster in 16 bits on a CPU
        told["mixed_precision"] = "bf16" if device.bf16_is_native() else "no"
    if options.max_train_steps:
        told["max_train_steps"] = options.max_train_steps
    if options.num_validation_images:
        told |= {
            "validation_prompt": validation_prompt(options, method),
            "num_validation_images": options.num_validation_images,
            "validation_steps": max(1, -(-told["max_train_steps"] // LOOKS)),
        }
    if way.verb in ("dreambooth", "lora"):
        told |= {"instance_data_dir": options.pictures, "instance_prompt": f"a photo of {options.noun}"}
    elif way.verb == "full":
        told["train_data_dir"] = places.captioned
    else:
        told |= {"train_data_dir": options.pictures, "placeholder_token": [called(options, method)]}
        told["initializer_token"] = [options.subject]
    if method == "dreambooth":
        told |= {
            "with_prior_preservation": True,
            "class_prompt": f"a photo of {article(options.subject)}",
            "class_data_dir": places.classes,
            "num_class_images": options.num_class_images,
        }
    return resolve(way.kind, told)


def captioned(folder: Path, prompt: str, examples: Sequence[Example]) -> None:
    """The pictures in `folder`, each with its own caption or else `prompt`, for the method that wants captions."""
    with tensors.replacing_folder(folder) as temporary:
        for each in examples:
            shutil.copyfile(each.path, temporary / each.path.name)
            (temporary / each.path.with_suffix(".txt").name).write_text(each.caption or prompt, encoding="utf-8")
