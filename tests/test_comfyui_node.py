"""The node for ComfyUI, in a stand-in for it: `python -m tests.comfyui --comfyui DIR` runs it in ComfyUI itself."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from tenshot.core.errors import Refusal
from tenshot.families import conversion, sdxl
from tenshot.families.sd import SD1
from tenshot.model import model
from tenshot.runtime import hosted
from tenshot.runtime.backend import Candidate
from tests import artifacts, comfyui_stand_in
from tests.comfyui_stand_in import Executor, Patcher
from tests.test_controlnet import a_controlnet

NODES = Path(__file__).parent.parent / "integrations/comfyui/nodes.py"
EAGER = Candidate("eager", "fp32")
LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def original(place: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A model's UNet under the names that ComfyUI has in memory."""
    net = unet(place)
    held = net.state_dict()
    lines = conversion.lines(SD1, "unet", net.config, held)
    return {line.theirs.removeprefix("model.diffusion_model."): held[line.ours[0]].to(dtype) for line in lines}


@cache
def unet(place: Path) -> Any:
    """Do not change it."""
    return model.load(str(place)).denoiser


@pytest.fixture(scope="module")
def models(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ComfyUI's folder models/, with one compiled model in it. Do not write into it."""
    folder = tmp_path_factory.mktemp("models")
    net = a_controlnet(tmp_path_factory.mktemp("nets") / "edges", sd1)
    artifacts.made(sd1, folder / "tenshot/fast", EAGER, ("unet", "unet_controlled"), net)
    return folder


@pytest.fixture
def load(models: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """ComfyUI importing our node."""
    for name, module in comfyui_stand_in.modules(models).items():
        monkeypatch.setitem(sys.modules, name, module)

    def loaded() -> Any:
        spec = importlib.util.spec_from_file_location("tenshot_nodes", NODES)
        assert spec and spec.loader
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found

    return loaded


@pytest.fixture
def nodes(load: Callable[[], Any]) -> Any:
    return load()


@pytest.fixture(autouse=True)
def as_comfyui_runs() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def patcher(sd1: Path, nodes: Any) -> Patcher:
    """A loaded checkpoint behind our node."""
    (found,) = nodes.TenshotCompiledModel().use(Patcher(original(sd1)), "fast")
    assert isinstance(found, Patcher)
    return found


def question(side: int = 8, tokens: int = 77, rows: int = 2) -> dict[str, torch.Tensor]:
    dice = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(rows, 4, side, side, generator=dice),
        "timesteps": torch.tensor([801.0] * rows),
        "context": torch.randn(rows, tokens, 16, generator=dice),
    }


def asked(patcher: Patcher, sigmas: object = None, side: int = 8, tokens: int = 77, **more: Any) -> tuple[Any, int]:
    """The answer in the first step of a picture, and how often ComfyUI's own UNet gave it."""
    executor = Executor(patcher)
    patcher.model.current_patcher = patcher
    options = {"sample_sigmas": sigmas, "sigmas": torch.ones(2), "cond_or_uncond": [0, 1]}
    options |= more.pop("transformer_options", {})
    given = question(side, tokens)
    found = executor.wrappers[0](executor, *given.values(), transformer_options=options, **more)
    return found, executor.asked


def wanted(place: Path, change: torch.Tensor | None = None, residuals: Any = None) -> torch.Tensor:
    """By diffusers. change: what is added to LAYER. residuals: of a ControlNet."""
    net = deepcopy(unet(place))
    if change is not None:
        layer = net.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
        layer.weight.data = layer.weight.data + change
    given = question()
    more = {} if residuals is None else dict(zip(RESIDUALS, residuals, strict=True))
    return net(given["x"], given["timesteps"], given["context"], **more).sample


RESIDUALS = ("down_block_additional_residuals", "mid_block_additional_residual")


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))


def test_it_is_offered_what_lies_in_comfyuis_folder(nodes: Any):
    assert nodes.TenshotCompiledModel.INPUT_TYPES()["required"]["artifact"] == (["fast"],)
    assert nodes.NODE_DISPLAY_NAME_MAPPINGS == {"TenshotCompiledModel": "Tenshot: use compiled model"}


def test_it_answers_as_the_unet_does(patcher: Patcher, sd1: Path):
    answer, others = asked(patcher)
    assert not others and far(answer, wanted(sd1)) < 1e-5


def test_loras_come_and_go(patcher: Patcher, sd1: Path):
    shape = patcher.model.weights[LAYER].shape
    one, other = torch.randn(shape), torch.randn(shape)
    before, _ = asked(patcher)
    with_one, others = asked(patcher.patched(LAYER, one, 0.5))
    assert not others and far(with_one, wanted(sd1, 0.5 * one)) < 1e-5 < far(with_one, before)
    with_both, _ = asked(patcher.patched(LAYER, one, 0.5).patched(LAYER, other))
    assert far(with_both, wanted(sd1, 0.5 * one + other)) < 1e-5
    assert far(asked(patcher.patched(LAYER, other))[0], wanted(sd1, other)) < 1e-5
    assert torch.equal(asked(patcher)[0], before)


def test_weights_are_read_where_they_changed(patcher: Patcher):
    for _ in range(3):
        asked(patcher)
    assert patcher.model.read == 1
    asked(patcher.patched(LAYER, torch.ones_like(patcher.model.weights[LAYER])))
    assert patcher.model.read == 2


def test_another_fine_tune_runs_in_it(nodes: Any, patcher: Patcher, sd1_tuned: Path, sd1: Path):
    before, _ = asked(patcher)
    (other,) = nodes.TenshotCompiledModel().use(Patcher(original(sd1_tuned)), "fast")
    answer, others = asked(other)
    assert not others and far(answer, wanted(sd1_tuned)) < 1e-5 < far(answer, before)
    change = torch.ones_like(other.model.weights[LAYER])
    assert far(asked(other.patched(LAYER, change))[0], wanted(sd1_tuned, change)) < 1e-5
    assert torch.equal(asked(patcher)[0], before)


def test_half_precision_in_comfyui_does_not_round_the_compiled_weights(nodes: Any, sd1: Path):
    (half,) = nodes.TenshotCompiledModel().use(Patcher(original(sd1, torch.float16)), "fast")
    assert far(asked(half)[0], wanted(sd1)) < 1e-5


def control(missing: int) -> tuple[dict[str, Any], Any]:
    """As ComfyUI hands it over, the first ones left out and one of nothing; and the same for diffusers."""
    sides = [(8, 32), (8, 32), (4, 32), (4, 64)]
    dice = torch.Generator().manual_seed(2)
    down = [torch.randn(2, width, side, side, generator=dice) for side, width in sides]
    middle = torch.randn(2, 64, 4, 4, generator=dice)
    given: list[Any] = [*down]
    given[2] = None
    told = [torch.zeros_like(each) if place in {2, *range(missing)} else each for place, each in enumerate(down)]
    return {"output": given[missing:], "middle": [middle], "input": []}, (told, middle)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_controlnets_answers_are_heeded(patcher: Patcher, sd1: Path, missing: int):
    given, told = control(missing)
    count = len(given["output"])
    answer, others = asked(patcher, control=given)
    assert not others and far(answer, wanted(sd1, residuals=told)) < 1e-5 < far(answer, wanted(sd1))
    assert len(given["output"]) == count
    lora = torch.ones_like(patcher.model.weights[LAYER])
    both, _ = asked(patcher.patched(LAYER, lora), control=given)
    assert far(both, wanted(sd1, lora, told)) < 1e-5


def test_a_controlnet_that_says_nothing_is_none(patcher: Patcher, sd1: Path):
    answer, others = asked(patcher, control={"output": [None, None], "middle": [None], "input": []})
    assert not others and far(answer, wanted(sd1)) < 1e-5


def _set(name: str, value: object) -> Callable[[Patcher], None]:
    return lambda patcher: setattr(patcher, name, value)


def _wrap(patcher: Patcher) -> None:
    patcher.add_wrapper_with_key("diffusion_model", "other", print)


STRANGE = {
    "size": ({"side": 16}, None, "latents of 16x16"),
    "tokens": ({"tokens": 154}, None, "154 tokens"),
    "patches": ({"transformer_options": {"patches": {"attn2_patch": [print]}}}, None, "patches (attn2_patch)"),
    "replaced": ({"transformer_options": {"patches_replace": {"attn1": {0: print}}}}, None, "patches_replace (attn1)"),
    "unknown": ({"transformer_options": {"fresh": torch.ones(2)}}, None, "fresh"),
    "adapter": ({"control": {"input": [torch.ones(1)]}}, None, "T2I-Adapter"),
    "argument": ({"time_context": torch.ones(1)}, None, "time_context"),
    "vector": ({"y": torch.ones(2, 8)}, None, "a vector beside the text"),
    "residuals": ({"control": {"output": [], "middle": [torch.ones(2, 3, 4, 4)]}}, None, "answers of [2, 3, 4, 4]"),
    "hooks": ({}, _set("hook_patches", {"hook": 1}), "hooks"),
    "injection": ({}, _set("injections", {"AnimateDiff": 1}), "AnimateDiff"),
    "object": ({}, _set("object_patches", {"diffusion_model.out": 1}), "diffusion_model.out"),
    "wrapped": ({}, _set("weight_wrapper_patches", {"a.weight": 1}), "a.weight"),
    "wrapper": ({}, _wrap, "another extension"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_what_no_program_does_is_handed_back_and_said_once(
    patcher: Patcher, caplog: pytest.LogCaptureFixture, case: str
):
    more, change, reason = STRANGE[case]
    asked(patcher)
    caplog.clear()
    if change:
        change(patcher)
    picture, next_picture = torch.ones(3), torch.ones(3)
    for _ in range(2):
        assert asked(patcher, picture, **more)[1] == 1
    (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert reason in line and "ComfyUI's own UNet draws" in line
    asked(patcher, next_picture, **more)
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 2


def test_another_architecture_is_handed_back_and_read_once(
    nodes: Any, patcher: Patcher, sd1: Path, caplog: pytest.LogCaptureFixture
):
    before, _ = asked(patcher)
    weights = original(sd1)
    weights["input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
    (inpainting,) = nodes.TenshotCompiledModel().use(Patcher(weights), "fast")
    assert [asked(inpainting)[1] for _ in range(2)] == [1, 1] and inpainting.model.read == 1
    assert "1 weights have no place in it: conv_in.weight" in caplog.text
    del weights["out.0.bias"]
    (lacking,) = nodes.TenshotCompiledModel().use(Patcher(weights), "fast")
    assert asked(lacking)[1] == 1 and "1 are missing: out.0.bias" in caplog.text
    assert torch.equal(asked(patcher)[0], before)


def test_two_of_our_nodes_are_one(nodes: Any, patcher: Patcher):
    (again,) = nodes.TenshotCompiledModel().use(patcher, "fast")
    assert len(again.wrappers["diffusion_model"]["tenshot"]) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_by_itself_where_that_is_asked_for(
    load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, sd1: Path, sd1_tuned: Path, dtype: torch.dtype
):
    monkeypatch.setenv("TENSHOT_COMFYUI_AUTO", "1")
    load()
    checkpoint = sys.modules["comfy.sd"].load_state_dict_guess_config
    found, clip = checkpoint((Patcher(original(sd1, dtype)), "clip"))
    assert clip == "clip" and not asked(found)[1]
    assert not checkpoint((Patcher(original(sd1_tuned, dtype)), "clip"))[0].wrappers
    assert checkpoint((None, "clip")) == (None, "clip")
    alone = sys.modules["comfy.sd"].load_diffusion_model_state_dict(Patcher(original(sd1, dtype)))
    assert "tenshot" in alone.wrappers["diffusion_model"]


def test_not_by_itself_otherwise(nodes: Any):
    assert "loaded" not in sys.modules["comfy.sd"].load_state_dict_guess_config.__qualname__


def test_what_has_no_compiled_unet_is_refused(sd1: Path, tmp_path: Path):
    place = artifacts.made(sd1, tmp_path / "decoder", EAGER, ("decoder",))
    with pytest.raises(Refusal, match="has no program for its unet"):
        hosted.open_hosted(place, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_numbers_in_stable_diffusion_xls_vector(dtype: torch.dtype):
    told = torch.tensor([[1024.0, 3023, 0, 7, 1536, 640], [768, 1, 13, 0, 4096, 8192]])
    text = torch.randn(2, 1280)
    waves = get_timestep_embedding(told.flatten(), 256, flip_sin_to_cos=True, downscale_freq_shift=0).reshape(2, -1)
    config = {"addition_time_embed_dim": 256}
    found = sdxl.of_vector(torch.cat([text, waves], 1).to(dtype), config)
    assert found is not None
    assert torch.equal(found["added_cond_kwargs"]["time_ids"], told)
    assert torch.equal(found["added_cond_kwargs"]["text_embeds"], text.to(dtype))
    assert sdxl.of_vector(torch.cat([text, torch.rand_like(waves)], 1), config) is None
