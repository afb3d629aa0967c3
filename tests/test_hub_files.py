"""Names of the hub, and which files of a repository they stand for."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import pytest

from tenshot.core import hub_names
from tenshot.core.hub_names import HubName, Kind
from tenshot.core.options import as_words
from tenshot.core.recipes import as_recipe
from tenshot.families import validate
from tenshot.generate.options import GenerateOptions
from tenshot.model import hub_files
from tenshot.model.hub_files import Needed, Unclear

COMMIT = "0123456789abcdef" * 2 + "01234567"
CACHED = f"/somewhere/hub/models--org--name/snapshots/{COMMIT}"
#: As in stable-diffusion-v1-5's repository, in less: what a model needs beside its weights, and what else lies there.
SMALL = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in ("text_encoder", "unet", "vae")),
    *(f"tokenizer/{name}" for name in ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")),
]
V15 = [
    *SMALL,
    *("README.md", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "v1-inference.yaml"),
    *("feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors"),
    *(f"text_encoder/{name}" for name in ("model.fp16.safetensors", "model.safetensors", "pytorch_model.bin")),
    *(f"unet/diffusion_pytorch_model.{end}" for end in ("bin", "fp16.safetensors", "non_ema.safetensors")),
    *("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
    *("vae/diffusion_pytorch_model.fp16.bin", "vae_decoder/model.onnx"),
]
FULL = {
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
}
HALF = {
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.fp16.safetensors",
}


def needed(
    files: list[str], inner: str = "", kind: Kind = "model", half: bool = False, has: Container[str] = ()
) -> Needed | Unclear:
    return hub_files.needed(files, inner, kind, half, lambda file: file in has)


@pytest.mark.parametrize(
    ("text", "found"),
    {
        "org/name": HubName("org/name"),
        "stable-diffusion-v1-5/stable-diffusion-v1-5": HubName("stable-diffusion-v1-5/stable-diffusion-v1-5"),
        "org/name@fp16": HubName("org/name", "fp16"),
        "org/name:sub/x.safetensors": HubName("org/name", inner="sub/x.safetensors"),
        "org/name@refs/pr/1:x.ckpt": HubName("org/name", "refs/pr/1", "x.ckpt"),
        **dict.fromkeys(("pocket", "a/b/c", "/a/b", "./a/b", "../a", "~/a", "out/x.safetensors", "a--b/c", "a/b.git")),
    }.items(),
)
def test_what_is_a_name(text: str, found: HubName | None):
    assert hub_names.parse(text) == found
    assert found is None or (str(found), found.odd) == (text, "")


@pytest.mark.parametrize(
    "text", ["org/name:../x", "org/name:a/../../x", "org/name:/etc/x", "org/name:a\\..\\x", "org/name@../x", "o/n:a//b"]
)
def test_names_that_lead_out_of_a_repository(text: str):
    found = hub_names.parse(text)
    assert found and found.odd
    assert hub_names.parse(Path("org/name:x.ckpt")) == HubName("org/name", inner="x.ckpt")


def test_a_path_in_the_cache_is_spelled_by_its_name():
    assert str(hub_names.of_path(CACHED)) == f"org/name@{COMMIT}"
    assert hub_names.spelled(f"{CACHED}/a/b.safetensors=0.5") == f"org/name@{COMMIT}:a/b.safetensors=0.5"
    assert hub_names.spelled("/a/snapshots/b") == "/a/snapshots/b"
    options = GenerateOptions(prompt=["a"], model=CACHED, lora=[f"{CACHED}/x.ckpt=2"], vae=Path(CACHED, "vae"))
    words = ["--vae", f"org/name@{COMMIT}:vae", "--prompt", "a", "--lora", f"org/name@{COMMIT}:x.ckpt=2"]
    assert as_words(options) == ["--model", f"org/name@{COMMIT}", *words]
    assert f"model: org/name@{COMMIT}\nvae: org/name@{COMMIT}:vae\n" in as_recipe(options)
    assert hub_names.called(Path(CACHED)) == "name"
    assert hub_names.called(Path(CACHED, "a", "b.safetensors")) == "b.safetensors"


def test_of_a_model_its_parts_are_needed_and_of_each_weight_one_copy():
    assert needed(V15) == needed(V15, kind="any")
    for half, weights in ((False, FULL), (True, HALF)):
        found = needed(V15, half=half)
        assert isinstance(found, Needed) and found.place == ""
        assert {*found.files} == {*SMALL, *weights} and len({*found.files}) == len(found.files)
    found = needed(V15, half=True, has=FULL)
    assert isinstance(found, Needed) and {*found.files} == {*SMALL, *FULL}


def test_a_part_and_a_file_of_a_model():
    assert needed(V15, "vae", "net") == Needed(["vae/config.json", "vae/diffusion_pytorch_model.safetensors"], "vae")
    assert needed(V15, "v1-5-pruned.ckpt") == Needed(["v1-5-pruned.ckpt"], "v1-5-pruned.ckpt")
    file = "unet/diffusion_pytorch_model.safetensors"
    assert needed(V15, file, "net") == Needed([file, "unet/config.json"], file)


def test_shards_and_their_index():
    shards = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = "diffusion_pytorch_model.safetensors.index.json"
    files = ["config.json", index, *shards, "diffusion_pytorch_model.fp16.safetensors"]
    assert needed(files, kind="net") == Needed(["config.json", index, *shards])
    assert needed(files, kind="net", half=True) == Needed(["config.json", files[-1]])
    assert validate.variants(files) == {None: shards, "fp16": files[-1:]}
    del files[3]
    assert needed(files, kind="net") == Needed(["config.json", files[-1]])
    assert validate.variants(shards[:1]) == {None: shards[:1]}


@pytest.mark.parametrize(
    ("files", "kind", "found"),
    [
        (["pytorch_lora_weights.safetensors", "other.safetensors"], "lora", ["pytorch_lora_weights.safetensors"]),
        (["adapter_config.json", "adapter_model.bin"], "lora", ["adapter_model.bin", "adapter_config.json"]),
        (
            ["unet/adapter_model.safetensors", "unet/adapter_config.json", "x.safetensors"],
            "lora",
            ["unet/adapter_model.safetensors", "unet/adapter_config.json"],
        ),
        (["learned_embeds.bin", "concept_images/1.jpeg"], "word", ["learned_embeds.bin"]),
        (["learned_embeds.safetensors", "learned_embeds.bin"], "word", ["learned_embeds.safetensors"]),
        (["config.json", "diffusion_pytorch_model.bin"], "net", ["config.json", "diffusion_pytorch_model.bin"]),
        (["az.safetensors", "az.bin", "README.md"], "lora", ["az.safetensors"]),
        (["sub/only.ckpt", "README.md"], "model", ["sub/only.ckpt"]),
    ],
)
def test_what_else_a_repository_may_hold(files: list[str], kind: Kind, found: list[str]):
    one = needed(files, kind=kind)
    assert isinstance(one, Needed) and list(one.files) == found
    assert one == needed(files, kind="any")


def test_what_is_unclear_says_what_to_type():
    said = needed(["a.safetensors", "sub/b.ckpt", "README.md"])
    assert isinstance(said, Unclear) and said.do == "name one: NAME:a.safetensors, NAME:sub/b.ckpt"
    said = needed(V15, "sub")
    assert isinstance(said, Unclear) and "NAME:v1-5-pruned.ckpt" in said.do
    said = needed(V15, kind="net")
    assert isinstance(said, Unclear) and said.do == "name the part: NAME:vae"
    said = needed(["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"])
    assert isinstance(said, Unclear) and "unet (config.json, diffusion_pytorch_model.bin)" in said.found
    said = needed(["sub/a.safetensors", "sub/b.safetensors"], "sub", "lora")
    assert isinstance(said, Unclear) and said.do == "name one: NAME:sub/a.safetensors, NAME:sub/b.safetensors"
    assert isinstance(needed(V15, "README.md"), Unclear) and isinstance(needed([]), Unclear)
    assert isinstance(needed(["config.json", "model.safetensors", "model-2.safetensors"], kind="net"), Unclear)
    clip = ["config.json", "merges.txt", "model.safetensors", "pytorch_model.bin", "vocab.json"]
    read = needed(clip, kind="transformers")
    assert isinstance(read, Needed) and read.files == ["config.json", "merges.txt", "vocab.json", "model.safetensors"]
    assert isinstance(needed(["config.json", "pytorch_model.bin", "tf_model.h5"], kind="transformers"), Unclear)
