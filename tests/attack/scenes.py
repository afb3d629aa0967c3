"""What is attacked: inputs of every kind, small and whole, and the commands that read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tenshot.cli.main import main
from tests import tiny

Words = tuple[str, ...]

DRAW: Words = (
    "generate",
    "--prompt",
    "a cat",
    "--steps",
    "1",
    "--seed",
    "1",
    "--device",
    "cpu",
    "--out",
    "out/cat.png",
)
LOOP: Words = (
    "--pretrained_model_name_or_path", "sd1", "--output_dir", "out", "--max_train_steps", "2", "--device", "cpu",
    "--train_batch_size", "1", "--report_to", "none", "--seed", "0", "--learning_rate", "1e-4", "--resolution", "64",
)  # fmt: skip
AZ: Words = ("--instance_prompt", "a photo of az cat")
LORA: Words = ("train", "lora", *LOOP, "--instance_data_dir", "pictures", *AZ, "--rank", "2")
PRIOR: Words = ("--with_prior_preservation", "--class_prompt", "a photo of a cat", "--num_class_images", "2")
DREAMBOOTH: Words = ("train", "dreambooth", *LOOP, "--instance_data_dir", "pictures", *AZ)
FULL: Words = ("train", "full", *LOOP, "--train_data_dir", "pictures")
INVERSION: Words = (
    "train", "textual-inversion", *LOOP, "--train_data_dir", "pictures", "--placeholder_token", "<az>",
    "--initializer_token", "cat",
)  # fmt: skip
RESUMED: Words = ("train", "lora", *LOOP[:2], "--output_dir", "run", *LOOP[4:5], "4", *LOOP[6:], *LORA[20:])


@dataclass(frozen=True)
class Scene:
    """kind: of input. needs: what of the stock is there. target: pattern of what may be harmed. words: the command.

    same: what has to come out as from unharmed inputs where the command does not refuse: a result that has a digest
    or a check of its own behind it. weight: how often it is tried.
    """

    kind: str
    needs: Words
    target: str
    words: Words
    same: str = ""
    weight: float = 1.0


def _merge(file: str) -> Words:
    return ("merge", "--sd_model", "sd1", "--models", file, "--ratios", "0.5", "--save_to", "out/m.safetensors")


def scenes() -> Iterator[Scene]:
    """Every kind of input with every verb that reads it."""
    for file in ("lora.safetensors", "kohya.safetensors", "loha.safetensors"):
        yield Scene("lora", (file,), file, ("inspect", file))
        yield Scene("lora", (file, "sd1"), file, ("convert", file, "out/c.safetensors", "--config", "sd1"))
        yield Scene("lora", (file, "sd1"), file, _merge(file))
        yield Scene("lora", (file, "sd1"), file, (*DRAW, "--model", "sd1", "--lora", f"{file}=0.7"))
        yield Scene("lora", (file,), file, ("resize", "--file", file, "--out", "out/r.safetensors", "--rank", "1"))
    start = (*LORA, "--start_from", "lora.safetensors")
    yield Scene("lora", ("lora.safetensors", "sd1", "pictures"), "lora.safetensors", start, weight=0.5)
    for file in ("word.safetensors", "word.pt"):
        yield Scene("embedding", (file,), file, ("inspect", file))
        yield Scene("embedding", (file,), file, ("convert", file, "out/c.safetensors"))
        yield Scene("embedding", (file, "sd1"), file, (*DRAW, "--model", "sd1", "--embedding", file))
    for file in ("model.safetensors", "model.ckpt"):
        tuned = ("extract", "--base", "sd1", "--tuned", file, "--rank", "2", "--out", "out/x.safetensors")
        yield Scene("checkpoint", (file,), file, ("inspect", file))
        yield Scene("checkpoint", (file, "sd1"), file, ("convert", file, "out/folder", "--config", "sd1"))
        yield Scene("checkpoint", (file,), file, (*DRAW, "--model", file))
        yield Scene("checkpoint", (file, "sd1"), file, tuned)
        both = ("merge", "--models", file, "sd1", "--ratios", "0.5", "0.5", "--save_to", "out/m.safetensors")
        yield Scene("checkpoint", (file, "sd1"), file, both)
    for verb in (("inspect", "sd1"), ("convert", "sd1", "out/c.safetensors"), (*DRAW, "--model", "sd1")):
        yield Scene("folder", ("sd1",), "sd1/*/*", verb)
        yield Scene("config", ("sd1",), "sd1/**/*.json", verb)
    yield Scene("folder", ("sd1", "pictures"), "sd1/*/*", LORA, weight=0.5)
    yield Scene("config", ("sd1", "pictures"), "sd1/**/*.json", DREAMBOOTH, weight=0.5)
    yield Scene("recipe", ("sd1", "draw.yaml"), "draw.yaml", ("generate", "--recipe", "draw.yaml"), weight=3)
    yield Scene("recipe", ("sd1", "pictures", "train.yaml"), "train.yaml", ("train", "lora", "--recipe", "train.yaml"))
    yield Scene("picture", ("sd1", "pictures"), "pictures/*.*", LORA, weight=2)
    yield Scene("picture", ("sd1", "pictures"), "pictures/*.*", INVERSION)
    classes = (*DREAMBOOTH, *PRIOR, "--class_data_dir", "classes")
    yield Scene("picture", ("sd1", "pictures", "classes"), "classes/*", classes)
    yield Scene("picture", ("sd1", "pictures", "masks"), "masks/*", (*LORA, "--mask_dir", "masks"))
    told = ("evaluate", "sd1", "--pictures", "pictures", "--subject", "cat", "--seeds", "1", "--steps", "1")
    yield Scene("picture", ("sd1", "pictures"), "pictures/*.*", told)
    yield Scene("folder", ("sd1", "pictures"), "sd1/*/*", told, weight=0.5)
    for table in ("jsonl", "csv", "txt"):
        needs = ("sd1", "pictures", table)
        yield Scene("captions", needs, "pictures/*.txt" if table == "txt" else f"pictures/metadata.{table}", FULL)
    drawn = (*DRAW, "--model", "artifact")
    yield Scene("artifact", ("artifact",), "artifact/**/*", drawn, "out/cat.png", weight=2)
    yield Scene("artifact", ("artifact",), "artifact/manifest.json", drawn, "out/cat.png", weight=2)
    run = ("sd1", "pictures", "run")
    yield Scene("run", run, "run/**/*", RESUMED, "run/pytorch_lora_weights.safetensors", weight=2)
    yield Scene("run", run, "run/*.json", RESUMED, "run/pytorch_lora_weights.safetensors", weight=2)
    cached = (*DREAMBOOTH, *PRIOR)
    result = "out/unet/diffusion_pytorch_model.safetensors"
    yield Scene("cache", ("sd1", "pictures", "cache"), "cache/**/*", cached, result, weight=2)
    file = ("model.safetensors", "cache")
    yield Scene("cache", file, "cache/tenshot/models/**/*", (*DRAW, "--model", file[0]), "out/cat.png", weight=2)


class Stock:
    """Whole inputs by name, made once in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for make in (
            self._models,
            self._adapters,
            self._pictures,
            self._recipes,
            self._artifact,
            self._run,
            self._cache,
        ):
            make()

    def lay(self, scene: Scene, place: Path) -> None:
        """Copy into `place` what `scene` needs."""
        for name in scene.needs:
            source = self.folder / name
            if name in ("jsonl", "csv", "txt"):
                shutil.copytree(source, place / "pictures", dirs_exist_ok=True)
            elif source.is_dir():
                shutil.copytree(source, place / name, symlinks=True, copy_function=_copy)
            else:
                _copy(source, place / name)

    def _models(self) -> None:
        tiny.sd1(self.folder / "sd1")
        done("convert", "sd1", "model.safetensors")
        done("convert", "sd1", "model.ckpt")

    def _adapters(self) -> None:
        from tests.test_adapter_files import a_lora

        a_lora(self.folder / "sd1", self.folder / "lora.safetensors", rank=2)
        done("convert", "lora.safetensors", "kohya.safetensors", "--config", "sd1")
        kohya = load_file(self.folder / "kohya.safetensors")
        loha = {}
        for name in sorted(
            {name.partition(".")[0] for name in kohya if name.startswith("lora_unet") and "_attn" in name}
        ):
            down, up = kohya[f"{name}.lora_down.weight"], kohya[f"{name}.lora_up.weight"]
            for number in (1, 2):
                loha |= {f"{name}.hada_w{number}_a": up.clone(), f"{name}.hada_w{number}_b": down.clone()}
        save_file(loha, self.folder / "loha.safetensors")
        rows = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
        save_file({"emb_params": rows}, self.folder / "word.safetensors")
        torch.save({"string_to_param": {"*": rows}, "name": "az"}, self.folder / "word.pt")

    def _pictures(self) -> None:
        pictures = tiny.pictures(self.folder / "pictures", 3)
        tiny.pictures(self.folder / "classes", 2, seed=1)
        names = sorted(path.name for path in pictures.iterdir())
        for name in names:
            place = self.folder / "masks" / name
            place.parent.mkdir(exist_ok=True)
            Image.new("L", (64, 64), 255).save(place)
        told = {
            "jsonl/metadata.jsonl": "\n".join(json.dumps({"file_name": name, "text": "a cat"}) for name in names),
            "csv/metadata.csv": "\n".join(["file_name,text", *(f"{name},a cat" for name in names)]),
            **{f"txt/{Path(name).stem}.txt": "a cat" for name in names},
        }
        for name, text in told.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text)

    def _recipes(self) -> None:
        for name, words in (("draw.yaml", (*DRAW[1:], "--model", "sd1")), ("train.yaml", LORA[2:])):
            pairs = zip(words[::2], words[1::2], strict=True)
            text = "".join(f"{name.removeprefix('--')}: {value}\n" for name, value in pairs)
            (self.folder / name).write_text(text)

    def _artifact(self) -> None:
        from tests import artifacts

        artifacts.compiled(self.folder / "sd1", self.folder / "artifact", parts=["unet"])

    def _run(self) -> None:
        words = [*RESUMED, "--checkpointing_steps", "1"]
        words[words.index("--max_train_steps") + 1] = "2"
        done(*words)

    def _cache(self) -> None:
        done(*DREAMBOOTH, *PRIOR)
        shutil.rmtree("out")
        done(*DRAW, "--model", "model.safetensors")
        shutil.rmtree("out")


def _copy(source: str | Path, place: str | Path) -> None:
    shutil.copyfile(source, place)


def done(*words: str) -> None:
    """Carry out a command that cannot fail."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(words)
    assert code == 0, f"{' '.join(words)}\n{out.getvalue()}{err.getvalue()}"
