"""What was given and changes nothing, or less than one might think, is said before training begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tenshot.families import conversion
from tenshot.families.base import Family, overlong
from tenshot.io.image_folder import Example, tell
from tenshot.model.model import Model, mentions
from tenshot.train.data.captions import Captions
from tenshot.train.engine import optimizers
from tenshot.train.options import FineTuneOptions, TrainOptions

MOST = 2000  # captions looked through for their length
LONGEST_SHAPE, LONGEST_OF_SQUARES = (
    2.5,
    3,
)  # proportions: of --aspect_ratio_buckets, with a fifth lost; of three squares


@dataclass(frozen=True)
class Need:
    """Options that do something only beside others. holds: are those there? what: they, in words."""

    names: Sequence[str]
    what: str
    holds: Callable[[Any], bool]


NEEDS = (
    Need(
        ("class_prompt", "num_class_images", "prior_loss_weight", "sample_batch_size"),
        "--with_prior_preservation, which draws pictures of the class and rehearses them",
        lambda options: options.with_prior_preservation,
    ),
    Need(
        ("num_validation_images", "validation_steps", "validation_epochs"),
        "--validation_prompt",
        lambda options: bool(options.validation_prompt),
    ),
    Need(("validation_epochs",), "beside --validation_steps", lambda options: options.validation_steps is None),
    Need(("ema_decay",), "--use_ema", lambda options: options.use_ema),
    Need(("huber_c",), "--loss_type huber or smooth_l1", lambda options: options.loss_type != "l2"),
    Need(
        ("torch_compile_backend",),
        "--torch_compile",
        lambda options: options.torch_compile,
    ),
    Need(
        ("lr_num_cycles",),
        "--lr_scheduler cosine_with_restarts",
        lambda options: options.lr_scheduler == "cosine_with_restarts",
    ),
    Need(("lr_power",), "--lr_scheduler polynomial", lambda options: options.lr_scheduler == "polynomial"),
    Need(("bucket_step",), "--aspect_ratio_buckets", lambda options: options.aspect_ratio_buckets),
    Need(("keep_tags",), "--shuffle_tags", lambda options: options.shuffle_tags),
    Need(
        ("tracker_project_name",),
        "--report_to wandb or trackio",
        lambda options: options.report_to in ("wandb", "trackio"),
    ),
    Need(
        ("adam_beta1", "adam_beta2"),
        "an --optimizer that has such decays",
        lambda options: optimizers.chosen(options) != "adafactor",
    ),
    Need(
        ("adam_epsilon",),
        "an --optimizer that divides by the second moment",
        lambda options: optimizers.chosen(options) not in ("adafactor", "lion"),
    ),
)


def options(given: TrainOptions) -> Iterator[str]:
    """Options that are not as they are by themselves, and change nothing."""
    defaults = {name: field.default for name, field in type(given).model_fields.items()}
    for need in (each for each in NEEDS if {*each.names} <= defaults.keys()):
        names = [name for name in need.names if getattr(given, name) != defaults[name]]
        if names and not need.holds(given):
            have = "has" if len(names) == 1 else "have"
            without = need.what if need.what.startswith("beside") else f"without {need.what}"
            yield f"{' and '.join(f'--{name}' for name in names)} {have} no effect {without}"


def words(given: FineTuneOptions) -> Iterator[str]:
    """New words that the drawings during training do not show."""
    new = getattr(given, "placeholder_token", ())
    if new and given.validation_prompt and not any(mentions(given.validation_prompt, word) for word in new):
        yield f"--validation_prompt does not say {' or '.join(new)}: its drawings will show nothing of what is learned"


def still(given: FineTuneOptions, family: Family) -> Iterator[str]:
    """What of the text encoders does not train, so that the model can go into one file."""
    for part in family.encoders if given.train_text_encoder else ():
        if names := conversion.silent(family, part):
            layers = ", ".join(name.removesuffix(".weight") for name in names)
            yield f"{layers} of {part} does not train: programs that read {family.title} from one file have none"


def captions(given: FineTuneOptions, prompt: str, examples: Sequence[Example], base: Model) -> Iterator[str]:
    """Prompts that no picture gets, parts of captions that are never mixed, ends that no text encoder sees."""
    texts = list(dict.fromkeys(each.caption or prompt for each in examples))
    if prompt and all(each.caption for each in examples):
        yield f"--instance_prompt is said of no picture: each has a caption of its own, such as {texts[0]!r}"
    if given.shuffle_tags and not any(Captions([text], tags=True, keep=given.keep_tags).mixable(0) for text in texts):
        yield f"--shuffle_tags has no effect: no caption has several parts after the first {given.keep_tags}"
    if getattr(given, "learnable_property", "object") != "object" and all(each.caption for each in examples):
        yield "--learnable_property has no effect: each picture has a caption of its own"
    if given.with_prior_preservation:
        texts.append(given.class_prompt or "")
    cut = {text: end for text in texts[:MOST] if (end := overlong(base.tokenizer(), base.expand_tokens(text)))}
    if cut:
        most, end = base.tokenizer().model_max_length, next(iter(cut.values()))
        many = f"{len(cut)} captions are" if len(cut) > 1 else "a caption is"
        yield f"{many} longer than the text encoder's {most} tokens; it does not see the end: {end[:200]!r}"


def pictures(given: FineTuneOptions, examples: Sequence[Example], side: int) -> Iterator[str]:
    """Pictures that hold less than is asked of them."""
    said: list[str] = []
    tell(said.append, f"smaller than {side} pixels, enlarged", [e.path for e in examples if min(e.size) < side])
    least = LONGEST_SHAPE if given.aspect_ratio_buckets else LONGEST_OF_SQUARES
    if not given.center_crop:
        lost = [each.path for each in examples if max(each.size) > least * min(each.size)]
        tell(said.append, "so oblong that parts of them are not learned", lost)
    if given.aspect_ratio_buckets and all(each.size.width == each.size.height for each in examples):
        said.append("--aspect_ratio_buckets has no effect: all pictures are square")
    yield from said
