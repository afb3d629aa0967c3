"""How each method is trained in a comparison: the options that its documentation names, for the size of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenshot.compare.options import CompareOptions, Method
from tenshot.core import device
from tenshot.core.options import resolve
from tenshot.evaluate.protocol import article
from tenshot.train.learning_rates import SMALL
from tenshot.train.methods import dreambooth, full, lora, textual_inversion
from tenshot.train.options import DreamBoothOptions, FineTuneOptions, FullOptions, LoraOptions, TextualInversionOptions
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
LORA, WORD = {"rank": 8, "layers": "transformer"}, {"num_vectors": 4}
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
        STEPS | WORD,
        {"max_train_steps": 2000} | WORD,
    ),
    "full": Way("full fine-tuning", "full", full.METHOD, FullOptions, MODEL, STEPS, LARGE),
}


def called(options: CompareOptions, method: Method) -> str:
    """What prompts call the subject after training."""
    return f"<{options.identifier}>" if method == "textual-inversion" else options.noun


def training(options: CompareOptions, method: Method, seed: int, numbers: int) -> FineTuneOptions:
    """The options of one training. numbers: of the model's denoiser."""
    way = WAYS[method]
    told: dict[str, object] = {
        **(way.small if numbers < SMALL else way.large),
        "pretrained_model_name_or_path": options.model,
        "output_dir": folder(options.out, method, seed),
        "seed": seed,
        "checkpoints_total_limit": 1,
        "mixed_precision": "bf16" if device.bf16_is_native() else "no",
        "device": options.device,
    }
    if options.max_train_steps:
        told["max_train_steps"] = options.max_train_steps
    if way.verb in ("dreambooth", "lora"):
        told |= {"instance_data_dir": options.pictures, "instance_prompt": f"a photo of {options.noun}"}
    elif way.verb == "full":
        told["train_data_dir"] = options.out / "captioned"
    else:
        told |= {"train_data_dir": options.pictures, "placeholder_token": [called(options, method)]}
        told["initializer_token"] = [options.subject]
    if method == "dreambooth":
        told |= {
            "with_prior_preservation": True,
            "class_prompt": f"a photo of {article(options.subject)}",
            "class_data_dir": options.out / "class",
            "num_class_images": options.num_class_images,
        }
    return resolve(way.kind, told)


def folder(out: Path, method: Method, seed: int) -> Path:
    return out / "runs" / f"{method}-{seed}"
