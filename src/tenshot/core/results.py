"""What verbs tell, as types: the keys that docs/json.md explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, Required, TypedDict


class Loads(TypedDict, total=False):
    """Where a file loads, and why not elsewhere."""

    loads_in: list[str]
    not_in: dict[str, str]
    known_of: Mapping[str, str]
    not_looked_at: str
    comfyui_takes_it_for: str
    spread: float


class WrittenLora(TypedDict, total=False):
    what: str
    family: str
    form: str
    written: str
    layers: int
    rank: int
    alpha: float
    relative_error: float


class Written(WrittenLora, total=False):
    """A file or folder that was written: a checkpoint, a LoRA, a learned word, or a net."""

    ledger: Mapping[str, object]
    peak_memory_bytes: int
    baked_layers: int
    words: Mapping[str, str]
    word: str
    vectors: int
    width: int
    in_the_prompt: str
    next: list[str]


class Merged(WrittenLora, total=False):
    merged: str
    ratios: list[float]
    words: Mapping[str, str]
    exported: list[str]


class Hashes(TypedDict, total=False):
    """Of a file, as user interfaces show them."""

    auto_v1: str
    auto_v2: str
    auto_v3: str
    sha256: str


class Resource(TypedDict, total=False):
    """What a picture was drawn with. file: what is called so here; at_hand: is it that, as far as its hash is told?"""

    what: Required[str]
    name: Required[str]
    at_hand: Required[bool]
    hash: str
    file: str
    another_hash: bool


class Inspected(Loads, Hashes, total=False):
    file: str
    source: str
    what: str
    family: str | None
    family_unknown: str
    prediction: str
    container: str
    names: str
    tensors: int
    dtypes: Mapping[str, int]
    parts: Sequence[str]
    missing: Sequence[str]
    do: str
    parameters: Mapping[str, int]
    kinds: Mapping[str, int]
    layers: Mapping[str, int]
    rank: Mapping[int, int]
    alpha: Mapping[float, int]
    dora: bool
    strength_unknown: str
    words: Sequence[str]
    left_out: str
    training: Mapping[str, str]
    usage_hint: str
    trigger_words: list[str]
    word: str
    vectors: Mapping[str, list[int]]
    in_the_prompt: Mapping[str, str]
    size: str
    prompt: str
    negative_prompt: str
    settings: Mapping[str, str]
    resources: list[Resource]
    notes: list[str]
    next: list[str]


class Best(TypedDict):
    """The step whose pictures were most like those given; cosine."""

    step: int
    likeness: float


class Forecast(TypedDict):
    """Of a step, peak memory, and the whole, measured on a few real steps."""

    seconds_per_step: float
    peak_bytes: int
    seconds_at_least: float
    seconds_at_most: float


class LikenessToTeacher(TypedDict):
    """Of pictures of the same seeds and prompts, those of the distilled model to its teacher's; none was learned from.

    psnr in dB; likeness a cosine, where there is a judge for such pictures. untrained: the same before the training.
    """

    pictures: int
    psnr: float
    untrained_psnr: float
    likeness: NotRequired[float]
    untrained_likeness: NotRequired[float]


class Trained(TypedDict, total=False):
    result: str
    steps: int
    seconds: float
    peak_bytes: int
    plan: str
    forecast: Forecast | None
    best: Best
    likeness_by_step: Mapping[str, float]
    likeness_to_teacher: LikenessToTeacher
    exported: list[str]
    seconds_by_phase: Mapping[str, float]


class Picture(TypedDict):
    file: str
    prompt: str
    seed: int


class Generated(TypedDict):
    """sheets: the files of contact sheets, of a matrix or a grid."""

    pictures: list[Picture]
    sheets: NotRequired[list[str]]


class Served(TypedDict):
    """Requests for pictures, by their HTTP status."""

    answered: Mapping[str, int]


class Demonstrated(TypedDict):
    page: str
    measures: Mapping[str, Mapping[str, float | None]]
    tuned: str


class Evaluated(TypedDict):
    """measures: of real pictures, and of each model's, by the measures' names; None where one says nothing."""

    judge: str
    measures: Mapping[str, Mapping[str, float | None]]
    drawn: str | None


class Compared(TypedDict):
    """Rows are real, untuned, the methods and few-steps; costs: seconds, seconds_per_step, peak_bytes, file_bytes."""

    page: str
    judge: str
    measures: Mapping[str, Mapping[str, float | None]]
    costs: Mapping[str, Mapping[str, float]]
    likeness_by_step: Mapping[str, Mapping[str, float]]
    recommended: str | None
    why: str


class Trial(TypedDict):
    """One training of a sweep; None where there is no such option, or it was stopped early."""

    rank: int | None
    learning_rate: float
    max_train_steps: int
    optimizer: str
    likeness: float | None
    score: float | None
    seconds: float | None
    stopped_early: bool


class Swept(TypedDict):
    """trials: by the names of their folders. best: one of them."""

    trials: Mapping[str, Trial]
    best: str
    page: str
    next: list[str]


class PlannedTraining(TypedDict):
    """seconds: at least and at most. None where nothing could be measured; why: what is in the way."""

    seconds: list[float] | None
    peak_bytes: int | None
    disk_bytes: int | None
    file_bytes: int | None
    fits: bool
    why: str


class Planned(TypedDict):
    """pictures: by their names. memory_bytes, disk_bytes: what there is for a training here. commands: by method."""

    pictures: Mapping[str, Mapping[str, object]]
    methods: Mapping[str, PlannedTraining]
    memory_bytes: int
    disk_bytes: int
    recommended: str | None
    why: str
    commands: Mapping[str, str]
    page: str | None
    next: list[str]


class Compiled(TypedDict):
    written: str
    chosen: Mapping[str, str]
    speedup: Mapping[str, float]
    speedup_spread: Mapping[str, list[float] | None]
    pictures: object
    seconds: float
    tuned: NotRequired[Tuned]


class Tuned(TypedDict, total=False):
    """speedup: over the usual way, run by torch in float32. written, preset: None where no way holds.

    tried: way -> its figures; of a measure the mean, and the lower 95 % bound of that.
    """

    certificate: str
    written: str | None
    preset: str | None
    proof: str
    speedup: float
    speedup_spread: list[float] | None
    usual_seconds: float
    preset_seconds: float
    pictures: str
    tried: Mapping[str, Mapping[str, object]]
    seconds: float
