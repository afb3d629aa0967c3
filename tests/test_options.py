"""Options: one record, spelled as a command line or as a recipe."""

import os
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from tenshot.cli import verbs
from tenshot.core import gpus
from tenshot.core.errors import Refusal
from tenshot.core.option_text import spell
from tenshot.core.options import MISSING, Options, as_words, entries, gather, resolve
from tenshot.core.recipes import as_recipe, read_recipe


class Base(Options):
    """What all share."""

    seed: int = Field(0, description="where the noise starts")
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"


class Example(Base):
    """Options of the example."""

    folder: Path = Field(description="pictures")
    rate: float = Field(0.5, gt=0, lt=1)
    side: int = Field(512, ge=64, multiple_of=8)
    limit: int | None = Field(2, ge=1)
    size: int | Literal["auto"] = "auto"
    prompt: str | None = Field(None, min_length=1, max_length=20)
    filter: Literal["none", "blur"] | None = "blur"
    prompts: list[str] = Field([], max_length=5)
    sides: tuple[int, ...] = ()
    ranks: dict[str, int] = Field({}, description="by name")
    flag: bool = False
    other: bool = True

    @model_validator(mode="after")
    def _agree(self) -> "Example":
        if self.flag and self.prompt is None:
            raise ValueError("--flag needs --prompt")
        return self


def faults(*words: str) -> dict[str, str]:
    """What each place is told; the words must be refused."""
    with pytest.raises(Refusal) as caught:
        gather(Example, words)
    places = [fault.where for fault in caught.value.faults]
    assert len(places) == len(set(places)), places
    return {fault.where: f"{fault.found} | {fault.fits} | {fault.do}" for fault in caught.value.faults}


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--rate 0.25", "rate", 0.25),
        ("--rate=0.25", "rate", 0.25),
        ("--mixed-precision fp16", "mixed_precision", "fp16"),
        ("--mixed_precision fp16", "mixed_precision", "fp16"),
        ("--seed -3", "seed", -3),
        ("--seed 1 --seed 2", "seed", 2),
        ("--limit null", "limit", None),
        ("--ranks mid=4 up.0=8 --ranks mid=5", "ranks", {"mid": 5, "up.0": 8}),
        ("--limit None", "limit", None),
        ("--mixed_precision no", "mixed_precision", "no"),
        ("--filter none", "filter", "none"),
        ("--filter null", "filter", None),
        ("--size 3", "size", 3),
        ("--prompt=--seed", "prompt", "--seed"),
        ("--prompts a b --prompts c", "prompts", ["a", "b", "c"]),
        ("--sides 1 2", "sides", (1, 2)),
        ("--flag --prompt x", "flag", True),
        ("--flag=false", "flag", False),
        ("--flag true --prompt x", "flag", True),
        ("--flag --prompt x --no-flag", "flag", False),
        ("--no_other", "other", False),
        ("--no-other", "other", False),
    ],
)
def test_words_become_values(words: str, name: str, value: object) -> None:
    assert getattr(gather(Example, ["--folder", "f", *words.split()]), name) == value


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("sid: 3\nrate: 2\nmixed_precision: fp61\n")
    told = faults("stray", "--recipe", str(recipe), "--recipe", str(tmp_path / "none.yaml"), "--limt", "3", "--limit",
                  "0", "--seed", "x", "--side", "65", "--prompt", "a", "dog", "--no-flag", "1", "--size")  # fmt: skip
    assert set(told) == {
        "stray", "--folder", f"{recipe}: sid", f"{recipe}: rate", f"{recipe}: mixed_precision",
        str(tmp_path / "none.yaml"), "--limt", "--limit", "--seed", "--side", "--prompt", "--no-flag", "--size",
    }  # fmt: skip
    assert "--limit" in told["--limt"] and "--side" in told[f"{recipe}: sid"]
    assert "did you mean fp16?" in told[f"{recipe}: mixed_precision"]
    assert "a number above 0, below 1" in told[f"{recipe}: rate"]
    assert "a whole number from 64, a multiple of 8" in told["--side"] and "512" in told["--side"]
    assert "'x'" in told["--seed"] and "where the noise starts" in told["--seed"]
    assert "--prompt 'a dog'" in told["--prompt"]
    assert "needed" in told["--folder"] and "a path (pictures)" in told["--folder"]
    assert "add --folder PATH" in told["--folder"] and "write one after it" in told["--size"]


def test_a_union_is_one_fault() -> None:
    assert faults("--folder", "f", "--size", "big") == {"--size": faults("--folder", "f", "--size", "big")["--size"]}


def test_pairs_need_their_sign_and_their_kind() -> None:
    assert faults("--folder", "x", "--ranks", "mid")["--ranks"] == "mid | NAME=VALUE | --ranks mid=VALUE"
    assert "--ranks" in faults("--folder", "x", "--ranks", "mid=four")


def test_numbers_must_be_finite() -> None:
    class Open(Options):
        height: float = Field(1.0, gt=0)

    for word in ("inf", "nan"):
        with pytest.raises(Refusal):
            gather(Open, ["--height", word])


def test_rules_of_the_whole_record_are_refusals() -> None:
    assert faults("--folder", "f", "--flag") == {"options": "--flag needs --prompt |  | "}


def test_a_shortened_name_is_refused_with_the_whole() -> None:
    """argparse takes a prefix for the name, which a new option makes ambiguous."""
    assert "--mixed_precision" in faults("--folder", "f", "--mixed", "no")["--mixed"]


def test_the_command_line_wins_over_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("folder: f\nrate: 7\nmixed-precision: bf16\n")
    for words in (["--recipe", str(recipe), "--rate", "0.25"], ["--rate", "0.25", "--recipe", str(recipe)]):
        options = gather(Example, words)
        assert (options.folder, options.rate, options.mixed_precision) == (Path("f"), 0.25, "bf16")


def test_recipe_values_mean_what_they_say(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "a: no\nb: 5e-6\nc: 12:30\nd: 007\ne: true\nf: 3\ng: -1.5\nh:\ni: [1, x]\nj: null\nk: on\nl: 1_0\n"
    )
    assert read_recipe(recipe) == {
        "a": "no", "b": 5e-6, "c": "12:30", "d": "007", "e": True, "f": 3, "g": -1.5, "h": None, "i": [1, "x"],
        "j": None, "k": "on", "l": "1_0",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "- a\n", "word", "1: x\n", "a: [\n", "a: !!python/object:os.system {}\n"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(text)
    with pytest.raises(Refusal, match="recipe"):
        read_recipe(recipe)


def test_a_recipe_reproduces_the_options(tmp_path: Path) -> None:
    words = ["--folder", "f", "--limit", "null", "--prompt", "no", "--prompts", "007", "true", "--rate", "0.000005"]
    options = gather(Example, words)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(as_recipe(options), encoding="utf-8")
    assert gather(Example, ["--recipe", str(recipe)]) == options


def test_resolve_takes_dashes_and_freezes() -> None:
    options = resolve(Example, {"folder": "f", "mixed-precision": "fp16"})
    assert options.mixed_precision == "fp16"
    with pytest.raises(ValueError, match="frozen"):
        options.seed = 1  # type: ignore[misc]


def test_entries_tell_what_an_option_takes() -> None:
    known = entries(Example)
    assert list(known) == list(Example.model_fields)
    assert known["folder"].default is MISSING and known["seed"].default == 0
    assert known["seed"].section is Base and known["rate"].section is Example
    assert known["mixed_precision"].choices == ["no", "fp16", "bf16"]
    assert known["side"].limits == "from 64, a multiple of 8" and known["other"].limits == ""
    assert known["prompt"].form == "text, not empty, of length 20 or less, or null"
    assert known["prompts"].form == "values, each text, at most 5"
    assert known["limit"].form == "a whole number from 1, or null"
    assert known["flag"].flag and not known["seed"].flag and known["prompts"].many and known["sides"].many


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (5e-6, "5e-06"),
        (1.0, "1"),
        (1234567.5, "1234567.5"),
        (None, "null"),
        (False, "false"),
        ("", "''"),
        ([1, 2], "1 2"),
    ],
)
def test_spell(value: object, word: str) -> None:
    assert spell(value) == word


@pytest.mark.parametrize(
    "given",
    [
        {"folder": "a b"},
        {"folder": "x", "prompts": ["one two", "three"], "sides": [1, 2], "ranks": {"a": 1, "b.c": 2}, "rate": 0.25},
        {"folder": "x", "flag": True, "other": False, "prompt": "it's", "limit": None, "filter": None, "size": "auto"},
    ],
)
def test_the_words_of_options_spell_them_again(given: dict[str, object]):
    options = resolve(Example, given)
    assert gather(Example, as_words(options)) == options
    assert "--seed" not in as_words(options)


HOSTILE = {
    "alias": "a: &x [1, 2]\nprompts: *x\n",
    "bomb": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)),
    "int": "seed: !!int abc\n",
    "time": "seed: !!timestamp 2001-01-01\n",
    "binary": "seed: !!binary abc\n",
    "set": "prompts: !!set {a, b}\n",
    "digits": f"seed: {'9' * 5000}\n",
    "deep flow": f"seed: {'[' * 50_000}\n",
    "deep block": "seed:\n" + "".join(" " * n + "-\n" for n in range(1, 300)),
    "twice": "seed: 1\nseed: 2\n",
    "twice within": "folder: f\nranks: {a: 1, a: 2}\n",
    "keys": "? [a, b]\n: 1\n",
    "large": "# " + "x" * 1_000_000 + "\nseed: 1\n",
    "nul": "seed: a\0b\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes_are_refused_by_name(name: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(HOSTILE[name])
    with pytest.raises(Refusal) as caught:
        read_recipe(recipe)
    assert [fault.where for fault in caught.value.faults] == [str(recipe)]
    assert len(str(caught.value)) < 2000


def test_what_is_no_file_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.yaml").write_bytes("prompt: caf\xe9".encode("latin-1"))
    for place in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "latin.yaml", Path("x" * 5000)):
        with pytest.raises(Refusal, match="recipe"):
            read_recipe(place)


def test_a_recipe_may_not_name_files_that_cannot_be(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text('folder: "a\\0b"\nprompt: "\\uD800"\n')
    told = faults("--recipe", str(recipe))
    assert set(told) == {f"{recipe}: folder", f"{recipe}: prompt"}


ROUNDS = {  # words of a command that lacks an option and has another fault -> all that is to be told of it
    "generate --devise cpu --out one.png --num_images 2 --device cuda:99": "--prompt --devise --out --device",
    "generate --out taken.txt/deep": "--prompt --out",
    "merge --ratios x --save_to taken.safetensors": "--models --ratios --save_to",
    "merge --save_to taken.safetensors --method difference": "--models --save_to",
    "merge --ratios 1 2 --save_to new.safetensors": "--models",  # there might be two
    "merge --ratios 1 2 --models taken.txt": "--ratios --save_to taken.txt",
    "convert --dst taken.txt --name x --overwrite": "--src dst --name",
    "extract --out taken.safetensors": "--tuned --base --out",
    "resize --out taken.txt": "--file --out",
    "compile --out taken.txt --device cuda:99": "--model --out --device",
    "train dreambooth --with_prior_preservation --keep_best --device cuda:99": (
        "--instance_data_dir --instance_prompt --class_prompt --keep_best --device"
    ),
    "train lora --nothing 1 --train_data_dir gone --instance_prompt x --text_encoder_lr 1": (
        "--nothing --train_data_dir --instance_prompt --text_encoder_lr"
    ),
    "bench inference --out taken.txt --rounds 0 --device xpu:3": "--out --rounds --device",
    "demo --seeds 0 --device cuda:99 --pictures gone": "--seeds --device --pictures",
}


@pytest.mark.parametrize("words", ROUNDS)
def test_there_is_no_second_round(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpus, "built_with", set)
    for name in ("taken.txt", "taken.safetensors"):
        (tmp_path / name).write_text("mine")
    path = next(each for each in verbs.VERBS if " ".join(each) == " ".join(words.split()[: len(each)]))
    module, name = verbs.VERBS[path].options.split(":")
    with pytest.raises(Refusal) as refused:
        gather(getattr(import_module(module), name), words.split()[len(path) :])
    assert sorted({fault.where for fault in refused.value.faults}) == sorted(ROUNDS[words].split())


@pytest.mark.parametrize(
    ("built", "count", "device", "told"),
    [
        (set(), 1, "cuda", "built without cuda"),
        ({"cuda"}, 2, "cuda:2", "2 GPUs are here"),
        ({"cuda"}, 2, "cuda:1", ""),
        ({"cuda"}, 0, "cuda", "no NVIDIA GPU"),
        ({"cuda"}, None, "cuda:9", ""),
        ({"hip"}, 0, "cuda", ""),
        (None, 0, "cuda", ""),
        ({"cuda"}, 1, "xpu", "built without xpu"),
        (set(), 0, "cpu", ""),
        (set(), 0, "auto", ""),
    ],
)
def test_a_gpu_that_is_not_here_is_known_without_torch(
    built: set[str] | None, count: int | None, device: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "built_with", lambda: built)
    monkeypatch.setattr(gpus, "nvidia", lambda: count)
    assert told in gpus.hurdle(device) if told else not gpus.hurdle(device)


def test_what_torch_was_built_with_is_read_as_torch_says_it() -> None:
    import torch

    assert gpus.built_with() == {name for name in ("cuda", "hip", "xpu") if getattr(torch.version, name)}
    assert (gpus.nvidia() or 0) >= (torch.cuda.device_count() if torch.version.cuda else 0)
