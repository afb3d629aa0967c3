"""The table of verbs. It imports none of them: a verb's module is imported when the verb is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

Name = tuple[str, ...]  #: a verb as typed: ("train", "dreambooth")


@dataclass(frozen=True)
class Verb:
    """run: "module:function" of (options, events), returning what to tell. options: "module:record" of its options."""

    run: str
    options: str
    help: str


VERBS: dict[Name, Verb] = {
    ("demo",): Verb(
        "tenshot.demo.demo:demo", "tenshot.demo.options:DemoOptions", "Teach the built-in model a subject, on any CPU."
    ),
    ("generate",): Verb(
        "tenshot.generate.generate:generate", "tenshot.generate.options:GenerateOptions", "Make pictures from a prompt."
    ),
    ("compile",): Verb(
        "tenshot.autotune.compile:compile_model",
        "tenshot.autotune.options:CompileOptions",
        "Make a model fast on this machine.",
    ),
    ("tune",): Verb(
        "tenshot.autotune.tune:tune",
        "tenshot.autotune.tune_options:TuneOptions",
        "Let a model need fewer steps, with proof.",
    ),
    ("convert",): Verb(
        "tenshot.convert.convert:convert", "tenshot.convert.options:ConvertOptions", "Translate files between programs."
    ),
    ("merge",): Verb("tenshot.merge.merge:merge", "tenshot.merge.options:MergeOptions", "Put LoRAs into a model."),
    ("extract",): Verb(
        "tenshot.extract.extract:extract",
        "tenshot.extract.options:ExtractOptions",
        "Turn the difference of two models into a LoRA.",
    ),
    ("resize",): Verb(
        "tenshot.extract.extract:resize", "tenshot.extract.options:ResizeOptions", "Give a LoRA another rank."
    ),
    ("serve",): Verb(
        "tenshot.serve.serve:serve",
        "tenshot.serve.options:ServeOptions",
        "Draw for other programs: WebUI's and OpenAI's APIs.",
    ),
    ("inspect",): Verb(
        "tenshot.inspect.inspect:inspect",
        "tenshot.inspect.options:InspectOptions",
        "Say what a file is and what loads it.",
    ),
    ("plan",): Verb(
        "tenshot.plan.plan:plan",
        "tenshot.plan.options:PlanOptions",
        "Look at your pictures; what would each method take here?",
    ),
    ("compare",): Verb(
        "tenshot.compare.compare:compare",
        "tenshot.compare.options:CompareOptions",
        "Train every method on your pictures; which serves you?",
    ),
    ("sweep",): Verb(
        "tenshot.compare.sweep:sweep",
        "tenshot.compare.options:SweepOptions",
        "Train one method with many settings; which is best?",
    ),
    ("evaluate",): Verb(
        "tenshot.evaluate.evaluate:evaluate",
        "tenshot.evaluate.options:EvaluateOptions",
        "Measure what models learned of a subject.",
    ),
    ("train", "dreambooth"): Verb(
        "tenshot.train.methods.dreambooth:train",
        "tenshot.train.options:DreamBoothOptions",
        "Teach a model one subject from a few pictures: DreamBooth.",
    ),
    ("train", "lora"): Verb(
        "tenshot.train.methods.lora:train",
        "tenshot.train.options:LoraOptions",
        "Teach a small adapter beside a model: LoRA.",
    ),
    ("train", "textual-inversion"): Verb(
        "tenshot.train.methods.textual_inversion:train",
        "tenshot.train.options:TextualInversionOptions",
        "Teach new words only: textual inversion.",
    ),
    ("train", "full"): Verb(
        "tenshot.train.methods.full:train",
        "tenshot.train.options:FullOptions",
        "Teach all of a model from captioned pictures.",
    ),
    ("train", "distillation"): Verb(
        "tenshot.train.methods.distillation:train",
        "tenshot.train.distillation_options:DistillationOptions",
        "Make a LoRA that draws in 8 steps without guidance.",
    ),
    ("bench", "inference"): Verb(
        "tenshot.bench.inference:bench",
        "tenshot.bench.options:BenchInferenceOptions",
        "Measure drawing on this machine.",
    ),
    ("bench", "train"): Verb(
        "tenshot.bench.train:bench", "tenshot.bench.options:BenchTrainOptions", "Measure training on this machine."
    ),
}
GROUPS: dict[Name, str] = {
    ("bench",): "Measure what this machine can do.",
    ("train",): "Teach a model, by one of several methods.",
}


def find(words: Sequence[str]) -> tuple[Name, Sequence[str]]:
    """The verb, or the level of the table, that `words` begin with, and the words after it."""
    path: Name = ()
    for word in words:
        if path in VERBS or not any(each[: len(path) + 1] == (*path, word) for each in VERBS):
            break
        path = (*path, word)
    return path, words[len(path) :]


def load(place: str) -> Any:
    """What a row names as "module:name"."""
    module, name = place.split(":")
    return getattr(import_module(module), name)
