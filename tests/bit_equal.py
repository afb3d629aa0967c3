"""Is what the command line makes still the same, bit for bit? Between two commits, on one machine.

    python -m tests.bit_equal record FILE [--source SRC [--formerly]]
    python -m tests.bit_equal compare FILE FILE

`record` runs some eighty commands on seeded inputs in a temporary folder, and writes digests of the pixels and tensors
that they made. It knows nothing of the house but its command line, so that it goes on working while rooms and names
inside change: --source takes the `src` of another checkout,
--formerly names options as they were called then. `compare` lists what differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import runpy
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

SRC = Path(__file__).parent.parent / "src"
FORMERLY = {"--no-rewrites": "--no-gains"}  # words of the commands below -> what they were at 543c4c9
MOVED: dict[str, str] = {}  # files that are made: their names in an older record -> their names now
NOT_OURS = ("checkpoint-", ".lock")  # a resumable state is the trainer's own affair
Digests = dict[str, str]

GENERATE = "generate --seed 7 --steps 3 --device cpu --prompt {koala} --out {out}"
SAID = GENERATE.replace("{koala}", "{zaz}")
SAMPLERS = ("Euler_a", "Euler", "Heun", "DDIM", "DPM++_2M", "DPM++_2M_Karras", "UniPC", "PLMS")
TRAIN = "--device cpu --report_to none --seed 3 --output_dir {out}"
SUBJECT = "--instance_data_dir {photos} --instance_prompt {az}"
PRIOR = "--with_prior_preservation --class_prompt {class} --num_class_images 2 --prior_loss_weight 0.7"
WORDS = "--train_data_dir {photos} --placeholder_token zaz --initializer_token toy"
TEXTS = {
    "koala": "a 3d emoji of a koala",
    "az": "a photo of az toy",
    "zaz": "a photo of zaz",
    "class": "a photo of a toy",
    "none": "blurry, red",
}
OPTIMIZERS = {"adafactor": "1e-2", "lion": "1e-3", "prodigy": "1", "schedulefree": "1e-2"}  # with a learning rate
FAMILIES = ("sd1", "sd2_v", "sdxl")


def commands() -> Iterator[tuple[str, str]]:
    """Name and words of each, in an order in which later ones may read what earlier ones made, as {name}.

    {out} is the place of what a command makes: {made}/<its name>.
    """
    yield from _training()
    yield from _pictures()
    yield from _files()
    yield from _compiled()


def _training() -> Iterator[tuple[str, str]]:
    lora, full, word = "train lora", "train full --train_data_dir {captioned}", f"train textual-inversion {WORDS}"
    dreambooth = f"train dreambooth {SUBJECT} --learning_rate 1e-3"
    tiny = "--pretrained_model_name_or_path {%s} " + TRAIN
    yield "dreambooth-pocket", f"{dreambooth} {TRAIN} --max_train_steps 2"
    yield (
        "dreambooth-sd1",
        f"{dreambooth} {tiny % 'sd1'} {PRIOR} --train_text_encoder --text_encoder_lr 5e-4 --use_ema --ema_decay 0.9"
        " --snr_gamma 5 --train_batch_size 2 --gradient_accumulation_steps 2 --max_train_steps 4 --random_flip"
        " --lr_scheduler cosine --lr_warmup_steps 1 --validation_prompt {az} --validation_steps 2"
        " --num_validation_images 2",
    )
    yield "dreambooth-sdxl", f"{dreambooth} {tiny % 'sdxl'} {PRIOR} --train_text_encoder --max_train_steps 2"
    tagged = "--shuffle_tags --keep_tags 1 --proportion_empty_prompts 0.3 --gradient_checkpointing --use_ema"
    yield "full-sd1", f"{full} {tiny % 'sd1'} --learning_rate 1e-3 --max_train_steps 3 --train_batch_size 2 {tagged}"
    zero = "--rescale_betas_zero_snr --noise_offset 0.05 --loss_type huber --huber_c 0.2"
    yield "full-sd2_v", f"{full} {tiny % 'sd2_v'} --max_train_steps 3 --snr_gamma 5 {zero} --aspect_ratio_buckets"
    yield "full-sdxl", f"{full} {tiny % 'sdxl'} --max_train_steps 2 --aspect_ratio_buckets --bucket_step 16"
    once = f"{lora} {SUBJECT} --learning_rate 1e-2"
    buckets = "--mask_dir {masks} --aspect_ratio_buckets --train_batch_size 2"
    yield "lora-pocket", f"{once} {TRAIN} --max_train_steps 3 --train_text_encoder {buckets}"
    yield "lora-pocket-all", f"{once} {TRAIN} --max_train_steps 2 --layers all --rank 2 --lora_alpha 3 --center_crop"
    yield "lora-sd1", f"{once} {tiny % 'sd1'} --max_train_steps 3 --train_text_encoder --mask_dir {{masks}} {PRIOR}"
    further = "--start_from {lora-sd1}/pytorch_lora_weights.safetensors --train_text_encoder --lr_scheduler linear"
    yield "lora-sd1-further", f"{once} {tiny % 'sd1'} --max_train_steps 2 {further}"
    blocks = "--block_ranks up_blocks.1=2 --block_rates mid_block=0.5"
    yield "lora-sd1-blocks", f"{once} {tiny % 'sd1'} --max_train_steps 2 {blocks} --use_rslora --layers transformer"
    yield "lora-sd1-bf16", f"{once} {tiny % 'sd1'} --max_train_steps 2 --mixed_precision bf16 --loss_type smooth_l1"
    yield "lora-sd2_v", f"{once} {tiny % 'sd2_v'} --max_train_steps 2 --use_dora --snr_gamma 5 --max_grad_norm 0.1"
    yield "lora-sdxl", f"{once} {tiny % 'sdxl'} --max_train_steps 2 --train_text_encoder --layers all"
    for name, rate in OPTIMIZERS.items():
        given = f"--max_train_steps 2 --optimizer {name} --learning_rate {rate}"
        yield f"lora-{name}", f"{lora} {SUBJECT} {tiny % 'sd1'} {given}"
    halves = f"{once} {tiny % 'sd1'} --checkpointing_steps 2 --train_batch_size 2".replace(
        "{out}", "{made}/lora-resumed"
    )
    yield "lora-half", f"{halves} --max_train_steps 2"
    yield "lora-resumed", f"{halves} --max_train_steps 4"
    yield "word-pocket", f"{word} {TRAIN} --max_train_steps 2"
    yield "word-sd1", f"{word} {tiny % 'sd1'} --max_train_steps 3 --num_vectors 2 --learnable_property style"
    yield "word-sdxl", f"{word} {tiny % 'sdxl'} --max_train_steps 2"


def _pictures() -> Iterator[tuple[str, str]]:
    for sampler in SAMPLERS:
        for scale in ("1", "7.5"):
            yield f"pocket-{sampler}-{scale}", f"{GENERATE} --guidance_scale {scale} --sampler {{{sampler}}}"
    yield "pocket-negative", f"{GENERATE} --negative_prompt {{none}} --num_images 3 --batch_size 2"
    yield "pocket-oblong", f"{GENERATE} --width 96 --height 64 --prompt {{az}}"
    yield "pocket-bf16", f"{GENERATE} --precision bf16"
    yield "pocket-lora", f"{GENERATE} --lora {{lora-pocket}} --lora {{lora-pocket-all}}=0.5"
    yield "pocket-word", f"{SAID} --embedding {{word-pocket}}/zaz.safetensors"
    yield "pocket-tuned", f"{GENERATE} --model {{dreambooth-pocket}}"
    for family in FAMILIES:
        yield f"drawn-{family}", f"{GENERATE} --model {{{family}}}"
        yield f"drawn-{family}-lora", f"{GENERATE} --model {{{family}}} --lora {{lora-{family}}} --sampler DDIM"
        yield f"drawn-{family}-full", f"{GENERATE} --model {{full-{family}}} --sampler UniPC"
    for family in ("sd1", "sdxl"):
        yield f"drawn-{family}-word", f"{SAID} --model {{{family}}} --embedding {{word-{family}}}/zaz.safetensors"


def _files() -> Iterator[tuple[str, str]]:
    for family in FAMILIES:
        yield f"{family}-file", f"convert {{{family}}} {{out}}.safetensors"
        yield f"{family}-folder", f"convert {{{family}-file}}.safetensors {{out}} --config {{{family}}}"
        yield f"{family}-half", f"convert {{{family}}} {{out}}.safetensors --half"
        yield (
            f"lora-{family}-kohya",
            f"convert {{lora-{family}}} {{out}}.safetensors --form kohya --config {{{family}}}",
        )
        back = f"convert {{lora-{family}-kohya}}.safetensors {{out}}.safetensors --form diffusers --config {{{family}}}"
        yield f"lora-{family}-diffusers", back
    yield "sd1-ckpt", "convert {sd1} {out}.ckpt"
    yield "sd1-vae", "convert {sd1}/vae {out}.safetensors --config {sd1}"
    yield "dora-baked", "convert {lora-sd2_v} {out}.safetensors --bake_dora {sd2_v} --rank 3"
    yield "word-sdxl-diffusers", "convert {word-sdxl}/zaz.safetensors {out} --form diffusers"
    yield "word-sd1-pt", "convert {word-sd1}/zaz.safetensors {out}.pt"
    lora, other = "{lora-sd1}", "{lora-sd1-blocks}"
    merge = "merge --sd_model {sd1} --models"
    yield "merge-folder", f"{merge} {lora} --ratios 0.7 --text_ratios 0.3 --blocks mid_block=0.5 --save_to {{out}}"
    yield "merge-file", f"{merge} {lora} {other} --ratios 0.7 -0.2 --precision fp16 --save_to {{out}}.safetensors"
    yield "merge-sdxl", "merge --sd_model {sdxl} --models {lora-sdxl} --save_to {out}"
    yield "merge-dora", "merge --sd_model {sd2_v} --models {lora-sd2_v} --save_to {out}"
    yield "loras-exact", f"merge --models {lora} {other} --ratios 0.5 0.25 --save_to {{out}}.safetensors"
    yield "loras-rank", f"merge --models {lora} {other} --rank 3 --save_to {{out}}.safetensors"
    tuned, trained = "{full-sd1}", "{dreambooth-sd1}"
    yield "models-sum", f"{merge} {tuned} --ratios 0.3 --save_to {{out}}"
    yield "models-difference", f"{merge} {tuned} {trained} --method difference --ratios 0.8 1 --save_to {{out}}"
    extract = "extract {full-sd1} --base {sd1} --out {out}.safetensors"
    yield "extract-rank", f"{extract} --rank 4"
    yield "extract-keep", f"{extract} --keep 0.9"
    yield "resize", "resize {lora-sd1} --rank 2 --out {out}.safetensors"


def _compiled() -> Iterator[tuple[str, str]]:
    quick = "--backend eager --precision fp32 --rounds 1 --steps 2 --budget 1 --no-rewrites --device cpu"
    yield "compiled", f"compile {{sd1}} --out {{out}} {quick}"
    yield "compiled-drawn", f"{GENERATE} --model {{compiled}}"
    yield "compiled-lora", f"{GENERATE} --model {{compiled}} --lora {{lora-sd1}}"


def inputs(folder: Path) -> dict[str, Path]:
    """Random models, pictures with captions, and masks, all seeded."""
    import numpy as np
    from PIL import Image

    from tests import tiny

    photos = tiny.pictures(folder / "photos", 3)
    tiny.pictures(folder / "square", 1, seed=1)
    Image.open(folder / "square/picture-0.png").resize((96, 64)).save(photos / "picture-wide.png")
    captioned, masks = folder / "captioned", folder / "masks"
    captioned.mkdir()
    masks.mkdir()
    for number, photo in enumerate(sorted(photos.iterdir())):
        picture = Image.open(photo)
        picture.save(captioned / photo.name)
        (captioned / photo.name).with_suffix(".txt").write_text(f"a toy, red, number {number}, on grass")
        white = np.zeros(picture.size[::-1], dtype=np.uint8)
        white[8:48, 16 : 40 + number] = 255
        Image.fromarray(white).save(masks / photo.name)
    made = {name: getattr(tiny, name)(folder / name) for name in FAMILIES}
    return made | {"photos": photos, "captioned": captioned, "masks": masks}


def record(file: Path, source: Path, formerly: bool = False) -> int:
    """Write `file`. 1 where a command fails: nothing is written then. formerly: `source` knows the words of 543c4c9."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(source)}
    import diffusers
    import peft
    import torch
    import transformers

    for name in ("accelerate", "pydantic", "rich.console", "rich.table"):
        with suppress(ImportError):
            import_module(name)
    torch.set_num_threads(1)
    os.fsync = lambda handle: None  # waiting for the disk takes half the time, and nothing here need outlive a crash
    sys.path.insert(0, str(source))
    found: dict[str, Any] = {
        "versions": {each.__name__: each.__version__ for each in (torch, diffusers, transformers, peft)}
    }
    with tempfile.TemporaryDirectory(prefix="bit-equal-") as place:
        folder, before = Path(place), dict[Path, int]()
        os.environ |= {"TENSHOT_CACHE": str(folder / "cache"), "TMPDIR": place}
        made = folder / "made"
        made.mkdir()
        given = inputs(folder)
        found["made"] = {"inputs": {f"{name}/{k}": v for name in given for k, v in digests([given[name]]).items()}}
        places = (
            {name: str(path) for name, path in given.items()}
            | TEXTS
            | {name: name.replace("_", " ") for name in SAMPLERS}
        )
        failed = []
        for name, words in commands():
            started = time.perf_counter()
            here = places | {"made": str(made), "out": str(made / name)}
            argv = [(FORMERLY.get(word, word) if formerly else word).format_map(here) for word in words.split(" ")]
            places[name] = str(made / name)
            code, told = _forked(argv, folder)
            if code:
                print(f"{name}: exit code {code}\n  {' '.join(argv)}\n{told[-800:]}", file=sys.stderr)
                failed.append(name)
                continue
            now = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
            found["made"][name] = digests([path for path in now if now[path] != before.get(path)], made)
            before = now
            print(f"{name}: {len(found['made'][name])} digests, {time.perf_counter() - started:.1f} s", file=sys.stderr)
    if failed:
        print(f"{file} is not written; these failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    file.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _forked(argv: list[str], folder: Path) -> tuple[int, str]:
    """Exit code of `python -m tenshot ARGV`, and what it said, in a process that has the libraries loaded already."""
    log = folder / "said.txt"
    child = os.fork()
    if not child:
        code = 70
        with log.open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os.chdir(folder)
            sys.argv = ["tenshot", *argv]
            try:
                runpy.run_module("tenshot", run_name="__main__", alter_sys=True)
            except SystemExit as ended:
                code = int(ended.code or 0)
            except BaseException:
                traceback.print_exc(file=said)
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text()


def digests(paths: Iterable[Path], folder: Path | None = None) -> Digests:
    """Of every picture and every tensor in these files and folders, by the file's name and the tensor's."""
    found: Digests = {}
    for path in sorted(paths):
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for file in files:
            name = str(file.relative_to(folder or path))
            if not any(word in name for word in NOT_OURS):
                found |= {f"{name}{tensor}": digest for tensor, digest in _contents(file)}
    return found


def _contents(file: Path) -> Iterator[tuple[str, str]]:
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    if file.suffix in (".png", ".jpg", ".webp"):
        with Image.open(file) as picture:
            yield "", _sha(picture.mode, picture.size, picture.tobytes())
    if file.suffix == ".safetensors":
        yield from _tensors(load_file(file))
    if file.suffix in (".ckpt", ".pt", ".bin"):
        try:
            held = torch.load(file, weights_only=True, map_location="cpu")
        except Exception:
            return  # a file that a run keeps for itself
        yield from _tensors(held)


def _tensors(held: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    import torch

    for name in sorted(held, key=str):
        value = held[name]
        if isinstance(value, Mapping):
            yield from _tensors(value, f"{before}:{name}")
        if isinstance(value, torch.Tensor):
            raw = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            yield f"{before}:{name}", _sha(value.dtype, tuple(value.shape), raw)


def _sha(kind: object, shape: object, raw: bytes) -> str:
    return hashlib.sha256(f"{kind} {shape} ".encode() + raw).hexdigest()


def compare(one: Path, other: Path) -> int:
    """List what differs; 1 where something does."""
    before, after = (json.loads(path.read_text()) for path in (one, other))
    if before["versions"] != after["versions"]:
        print(f"versions: {before['versions']}, {after['versions']}")
    total, different = 0, []
    for name in dict.fromkeys([*before["made"], *after["made"]]):
        a = {MOVED.get(key, key): digest for key, digest in before["made"].get(name, {}).items()}
        b = after["made"].get(name, {})
        total += len(a.keys() | b.keys())
        kinds = {
            "only in the first": a.keys() - b.keys(),
            "only in the second": b.keys() - a.keys(),
            "with other bits": {key for key in a.keys() & b.keys() if a[key] != b[key]},
        }
        for kind, keys in kinds.items():
            if keys:
                few = ", ".join(sorted(keys)[:3])
                different.append(f"{name}: {len(keys)} {kind}: {few}{', ...' if len(keys) > 3 else ''}")
    print(*different, f"{total} digests: {'not equal' if different else 'equal'}", sep="\n")
    return int(bool(different))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bit_equal", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("record")
    made.add_argument("file", type=Path)
    made.add_argument("--source", type=Path, default=SRC)
    made.add_argument("--formerly", action="store_true", help="the source knows the words of 543c4c9")
    looked = verbs.add_parser("compare")
    looked.add_argument("one", type=Path)
    looked.add_argument("other", type=Path)
    given = parser.parse_args()
    if given.verb == "record":
        return record(given.file, given.source.absolute(), given.formerly)
    return compare(given.one, given.other)


if __name__ == "__main__":
    sys.exit(main())
