"""A method may train some of the denoiser's own weights: all others are saved as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tenshot.convert.convert import convert
from tenshot.convert.options import ConvertOptions
from tenshot.core import device
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.train import finetune
from tenshot.train.methods import dreambooth, full_weights
from tenshot.train.training_method import TrainingMethod
from tests.dreambooth_runs import UNET, Bench, Ear

PROJECTION = "text_projection.weight"


def keys_and_values(name: str) -> bool:
    """Custom Diffusion's."""
    return ".attn2.to_k." in name or ".attn2.to_v." in name


def method(trains) -> TrainingMethod:
    return replace(
        dreambooth.METHOD,
        trainable=lambda base, options: full_weights.FullWeightsTrainable(base, options, trains),
        trained=lambda options, place: full_weights.trained(options, place, trains),
    )


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_does_not_train_is_saved_to_the_bit(
    precision: str, sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(device, "bf16_is_native", lambda: True)
    bench = Bench(sd1, pictures, tmp_path)
    options = bench.options("out", mixed_precision=precision)
    finetune.train(method(keys_and_values), options, Ear())
    before, after = load_file(sd1 / UNET), load_file(bench.folder / "out" / UNET)
    learned = {name for name in before if not before[name].equal(after[name])}
    assert learned == {name for name in before if keys_and_values(name)} != set()
    assert {each.dtype for each in after.values()} == {each.dtype for each in before.values()}
    numbers = sum(before[name].numel() for name in learned)
    assert full_weights.trained(options, sd1, keys_and_values) == numbers


def test_what_one_file_cannot_say_does_not_train(sd35: Path, pictures: Path, tmp_path: Path):
    """Stability's code, and so ComfyUI and AUTOMATIC1111, pools CLIP-L without its projection."""
    bench, ear = Bench(sd35, pictures, tmp_path), Ear()
    out = bench.run("out", ear, train_text_encoder=True)
    assert any("text_projection of text_encoder does not train" in line for line in ear.said)
    numbers = 0
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        before, after = (load_file(next((place / part).glob("*.safetensors"))) for place in (sd35, out))
        same = {name for name in before if before[name].equal(after[name])}
        assert (PROJECTION in same) == (part == "text_encoder")
        numbers += sum(before[name].numel() for name in before if (part, name) != ("text_encoder", PROJECTION))
    assert full_weights.trained(bench.options("out", train_text_encoder=True), sd35) == numbers
    told = convert(gather(ConvertOptions, [str(out), str(tmp_path / "one.safetensors")]), Events())
    assert told["what"] == "checkpoint"


def test_a_method_that_trains_nothing_of_a_model_is_refused(sd1: Path, pictures: Path, tmp_path: Path):
    bench = Bench(sd1, pictures, tmp_path)
    with pytest.raises(Refusal, match="has no weights that dreambooth trains"):
        finetune.train(method(lambda name: False), bench.options("out"), Ear())
    assert not (tmp_path / "out").exists()
