"""Drawing, merging, swapping and going on with a training add one and the same difference, whatever a file's shapes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tenshot.adapters import lora, parsing
from tenshot.adapters.adapter_files import opened as source
from tenshot.cli.main import main
from tenshot.core import device
from tenshot.core.errors import Refusal
from tenshot.model import model
from tenshot.train.methods import lora_weights as training
from tests.dreambooth_runs import Bench
from tests.test_adapter_files import a_lora
from tests.test_adapter_files import run as convert
from tests.test_extract import run_extract as extract
from tests.test_extract import run_resize as resize
from tests.test_loha_lokr import kohyas
from tests.test_merge import adapted, answers, plain
from tests.test_merge import run as merge

Named = dict[str, torch.Tensor]
UNET = "unet/diffusion_pytorch_model.safetensors"


def kohya(folder: Path, target: Path) -> Named:
    """A random LoRA of all layers under kohya's names."""
    a_lora(folder, target.with_name("random.safetensors"))
    convert(target.with_name("random.safetensors"), target, "--form", "kohya", "--config", folder)
    return load_file(target)


def with_magnitudes(named: Named, folder: Path, every: int) -> Named:
    """Every so many layers get a dora_scale, larger than the norm of the weight it is for."""
    weights = load_file(folder / UNET)
    found = dict(named)
    starts = sorted(name.partition(".")[0] for name in named if name.startswith("lora_unet") and "alpha" in name)
    by_name = {name.removesuffix(".weight").replace(".", "_"): tensor for name, tensor in weights.items()}
    for start in starts[::every]:
        weight = by_name[start.removeprefix("lora_unet_")]
        length = weight.flatten(1).norm(dim=1) * 1.3
        found[f"{start}.dora_scale"] = length.reshape(-1, *(1,) * (weight.ndim - 1))
    return found


def agrees(folder: Path, file: Path, ratio: float = 1.0) -> None:
    """Is a model with the file active the same as one into which it was merged, and another than without?"""
    target = file.with_suffix("")
    merge("--sd_model", folder, "--models", file, "--ratios", ratio, "--save_to", target)
    merged = answers(model.load(str(target)))
    assert torch.equal(merged, answers(adapted(folder, (file, ratio))))
    assert (merged - plain(folder)).abs().max() > 1e-3


@pytest.mark.parametrize("ratio", [pytest.param(1.0, marks=pytest.mark.slow), 0.6])
def test_layers_with_and_without_a_magnitude(ratio: float, sd1: Path, tmp_path: Path):
    file = tmp_path / "it.safetensors"
    save_file(with_magnitudes(kohya(sd1, file), sd1, every=2), file)
    agrees(sd1, file, ratio)


@pytest.mark.parametrize("shape", ["loha", "lokr", "lokr, kernels apart"])
def test_products_with_magnitudes(shape: str, sd1: Path, tmp_path: Path):
    file = kohyas(sd1, shape, tmp_path / "it.safetensors")
    named = with_magnitudes(load_file(file), sd1, every=2)
    assert any("dora_scale" in name for name in named)
    save_file(named, file)
    agrees(sd1, file)


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr", "full"])
def test_what_adds_nothing_is_said_to(kind: str, sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """One factor of each layer is zero, as in a LoRA that never learned; once one is not, nothing is said."""
    file, zero = tmp_path / "it.safetensors", {"LoRA": "lora_up", "LoHa": "w2_b", "LoKr": "w1", "full": "diff"}[kind]
    if kind == "full":
        named = {"lora_unet_mid_block_resnets_0_conv1.diff": torch.ones(64, 64, 3, 3)}
    else:
        named = kohya(sd1, file) if kind == "LoRA" else load_file(kohyas(sd1, kind.lower(), file))
    idle = {name: torch.zeros_like(tensor) if zero in name else tensor for name, tensor in named.items()}
    first = next(name for name in idle if zero in name)
    draw = f"--prompt cat --steps 1 --device cpu --out {tmp_path} --model {sd1}".split()
    for found, times in ((idle, 1), (idle | {first: named[first]}, 0)):
        save_file(found, file)
        into = ["--sd_model", str(sd1), "--models", str(file), "--save_to", str(tmp_path / f"merged-{times}")]
        verbs = [["inspect", str(file)], ["merge", *into], ["generate", *draw, "--lora", str(file)]]
        for words in verbs if kind == "LoRA" else verbs[:1]:
            assert main(words) == 0
            assert capsys.readouterr().err.count(f"{file}: a factor of every layer is zero") == times


def test_a_ratio_of_zero_is_nothing_also_of_a_dora(sd1: Path, tmp_path: Path):
    file = tmp_path / "it.safetensors"
    save_file(with_magnitudes(kohya(sd1, file), sd1, every=1), file)
    merge("--sd_model", sd1, "--models", file, "--ratios", 0, "--save_to", tmp_path / "none")
    for opened in (model.load(str(tmp_path / "none")), adapted(sd1, (file, 0.0))):
        assert torch.equal(answers(opened), plain(sd1))


def reshaped(named: Named, how: str) -> Named:
    """kohya's factors with kernels where a linear layer has none, or without where a convolution has one."""
    found = {}
    for name, tensor in named.items():
        if how == "kernels everywhere" and tensor.ndim == 2:
            tensor = tensor[..., None, None]
        if how == "flat" and tensor.ndim == 4:
            tensor = tensor.flatten(1)
        if how == "only down has a kernel" and tensor.ndim == 4 and "lora_up" in name:
            tensor = tensor.flatten(1)
        found[name] = tensor.contiguous()
    return found


@pytest.mark.parametrize(
    "how",
    ["kernels everywhere", *(pytest.param(how, marks=pytest.mark.slow) for how in ("flat", "only down has a kernel"))],
)
def test_the_same_factors_in_other_shapes(how: str, sd1: Path, pictures: Path, tmp_path: Path):
    usual, other = tmp_path / "plain.safetensors", tmp_path / "other.safetensors"
    named = {name: tensor for name, tensor in kohya(sd1, usual).items() if name.startswith("lora_unet")}
    save_file(named, usual)
    save_file(reshaped(named, how), other)
    agrees(sd1, other)
    expected = answers(adapted(sd1, (usual, 1.0)))
    assert torch.equal(answers(adapted(sd1, (other, 1.0))), expected)
    for form in ("kohya", "diffusers"):  # written as those programs want it that are strict
        one, two = (tmp_path / f"{form}-{name}.safetensors" for name in ("plain", "other"))
        for source_file, target in ((usual, one), (other, two)):
            convert(source_file, target, "--form", form, "--config", sd1)
        assert all(torch.equal(tensor, load_file(one)[name]) for name, tensor in load_file(two).items())
    options = Bench(sd1, pictures, tmp_path, "lora").options("out", start_from=str(other))
    torch.manual_seed(device.seed_of(options.seed, "new weights"))
    assert torch.allclose(answers(training.LoraTrainable(model.load(str(sd1)), options).model), expected, atol=2e-5)
    resize(other, "--rank", 3, "--config", sd1, "--out", tmp_path / "resized.safetensors")
    assert torch.allclose(answers(adapted(sd1, (tmp_path / "resized.safetensors", 1.0))), expected, atol=1e-4)


@pytest.mark.parametrize("lost", ["lora_down", "lora_up"])
def test_what_does_not_fit_is_refused_everywhere_alike(lost: str, sd1: Path, pictures: Path, tmp_path: Path):
    """A 1x1 kernel for a 3x3 convolution; an output too few."""
    file = tmp_path / "it.safetensors"
    named = kohya(sd1, file)
    name = f"lora_unet_mid_block_resnets_0_conv1.{lost}.weight"
    named[name] = named[name][..., :1, :1].contiguous() if lost == "lora_down" else named[name][1:].contiguous()
    save_file(named, file)
    said = []
    for verb in (
        lambda: merge("--sd_model", sd1, "--models", file, "--save_to", tmp_path / "merged"),
        lambda: adapted(sd1, (file, 1.0)),
        lambda: lora.attach(model.load(str(sd1)), lora.to_train(lora.read(file), file)),
    ):
        with pytest.raises(Refusal, match=r"mid_block\.resnets\.0\.conv1") as refused:
            verb()
        said.append(refused.value.faults[0].found)
    assert len(set(said)) == 1
    assert not (tmp_path / "merged").exists()


def test_training_on_with_what_peft_cannot_say_is_refused(sd1: Path, pictures: Path, tmp_path: Path):
    file = tmp_path / "it.safetensors"
    save_file(with_magnitudes(kohya(sd1, file), sd1, every=2), file)
    with pytest.raises(Refusal, match="layers have a dora_scale"):
        lora.to_train(lora.read(file), file)
    found = with_magnitudes(load_file(file), sd1, every=1)
    save_file({n: t.transpose(0, 1) if "dora" in n and t.ndim > 1 else t for n, t in found.items()}, file)
    with pytest.raises(Refusal, match="magnitudes of inputs"):
        lora.to_train(lora.read(file), file)


@pytest.mark.parametrize(("kept", "asked"), [
    (torch.float16, "fp32"), (torch.bfloat16, "fp16"), (torch.float16, "keep"), (torch.float64, "keep"),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in ((torch.float16, "bf16"), (torch.float32, "fp16"))),
])  # fmt: skip
def test_sums_are_rounded_once_to_what_was_asked_for(kept: torch.dtype, asked: str, sd1: Path, tmp_path: Path):
    file, base = a_lora(sd1, tmp_path / "one.safetensors"), tmp_path / "base"
    shutil.copytree(sd1, base)
    before = {name: tensor.to(kept) for name, tensor in load_file(base / UNET).items()}
    save_file(before, base / UNET)
    dtype = kept if asked == "keep" else device.DTYPES[asked]
    merge("--sd_model", base, "--models", file, "--precision", asked, "--save_to", tmp_path / "merged")
    after = load_file(tmp_path / "merged" / UNET)
    assert {tensor.dtype for tensor in after.values()} == {dtype}
    for (part, layer), each in parsing.low_rank(source(file)).items():
        if part == "unet":
            weight = before[f"{layer}.weight"]
            exact = weight.double() + each.difference().reshape(weight.shape).double()
            wide = torch.float64 if kept == torch.float64 else torch.float32
            assert torch.equal(after[f"{layer}.weight"], exact.to(wide).to(dtype))
    merge("--sd_model", base, "--models", tmp_path / "merged", "--ratios", 0.3, "--precision", "fp32",
          "--save_to", tmp_path / "mixed")  # fmt: skip
    mixed = load_file(tmp_path / "mixed" / UNET)
    for name, tensor in mixed.items():
        assert torch.allclose(tensor, 0.7 * before[name].float() + 0.3 * after[name].float(), rtol=1e-6, atol=1e-7)


def test_what_is_extracted_from_halves_is_not_rounded(sd1: Path, tmp_path: Path):
    file = a_lora(sd1, tmp_path / "one.safetensors")
    merge("--sd_model", sd1, "--models", file, "--ratios", 0, "--precision", "fp16", "--save_to", tmp_path / "base")
    merge("--sd_model", tmp_path / "base", "--models", file, "--precision", "fp32", "--save_to", tmp_path / "tuned")
    told = extract(tmp_path / "tuned", "--base", tmp_path / "base", "--rank", 3, "--out", tmp_path / "back.safetensors")
    assert told["relative_error"] < 1e-5


def test_the_numbers_of_merged_loras(sd1: Path, tmp_path: Path):
    one = a_lora(sd1, tmp_path / "one.safetensors")
    save_file({name: tensor.half() for name, tensor in load_file(one).items()}, tmp_path / "half.safetensors")
    for precision, dtype in (("keep", torch.float32), ("fp16", torch.float16)):
        target = tmp_path / f"{precision}.safetensors"
        merge(
            "--models",
            one,
            tmp_path / "half.safetensors",
            "--precision",
            precision,
            "--config",
            sd1,
            "--save_to",
            target,
        )
        assert {t.dtype for n, t in load_file(target).items() if "alpha" not in n} == {dtype}
    merge("--models", tmp_path / "half.safetensors", "--config", sd1, "--save_to", tmp_path / "kept.safetensors")
    assert load_file(tmp_path / "kept.safetensors").popitem()[1].dtype == torch.float16
