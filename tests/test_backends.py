"""Every backend that this machine can build says what the plain net says, with whichever weights it is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from diffusers import ControlNetModel

import tenshot
from tenshot.autotune import calibration
from tenshot.autotune.options import CompileOptions
from tenshot.core.device import DTYPES
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.io import tensors
from tenshot.model import model
from tenshot.pipeline import SamplingSettings
from tenshot.runtime import backend, flat_modules
from tenshot.runtime.backend import Candidate, Job, Runner
from tenshot.runtime.backends import aotinductor, onnx_graph
from tenshot.runtime.backends.int8_weights import Int8Weight
from tenshot.runtime.flat_modules import Flat
from tenshot.runtime.registry import BACKENDS
from tests import tiny

CPU = torch.device("cpu")
BATCH, SIDE = 2, 8
WITHIN = {"fp32": 1e-4, "bf16": 5e-2, "int8": 0.15}  # relative to the plain net
SECTIONS = {
    "sd1": ("unet", "unet_controlled", "controlnet", "decoder", "encoder", "text_encoder"),
    "sd2_v": ("unet", "text_encoder"),
    "sdxl": ("unet", "unet_controlled", "controlnet", "text_encoder_2"),
}
HERE = [name for name in BACKENDS if not backend.backend(name).missing(CPU)]
if aotinductor.lacks():
    HERE.remove("aotinductor")
CANDIDATES = [candidate for name in HERE for candidate in backend.backend(name).candidates(CPU)]
FIRSTS = [next(each for each in CANDIDATES if each.backend == name) for name in HERE]
#: Backends that take long to build -> what they build nevertheless, unless for `make test-slow`. OpenVINO's float32 has
#: the other sections of sd1 in test_swap.py and test_compiled_model.py; of a traced net, sd1 has all sections.
QUICK = {
    "aotinductor": set(),
    "openvino": {("sd1", "text_encoder")},
    "onnxruntime": {("sd1", "decoder")},
    "torchscript": {*(("sd1", each) for each in SECTIONS["sd1"]), ("sdxl", "unet"), ("sdxl", "text_encoder_2")},
}
#: Where the other ways of a backend run, but for the UNet: int8 rounds convolutions, too.
OTHERS = {"openvino bf16": "text_encoder", "openvino int8": "decoder", "aotinductor bf16 channels_last": "decoder"}
Case = tuple[str, str, Candidate]


def cases() -> list[object]:
    """The first way of a backend to run for every section, the others for one."""
    every = [(family, section, first) for family in SECTIONS for section in SECTIONS[family] for first in FIRSTS]
    every += [("sd1", OTHERS.get(str(each), "unet"), each) for each in CANDIDATES if each not in FIRSTS]
    return [
        pytest.param(*case, id="-".join(map(str, case)).replace(" ", "-"), marks=pytest.mark.slow if late(case) else ())
        for case in every
    ]


def late(case: Case) -> bool:
    family, section, candidate = case
    if candidate not in FIRSTS:
        return candidate.backend == "aotinductor" or str(candidate) == "openvino bf16"  # which int8 computes in, too
    return (family, section) not in QUICK.get(candidate.backend, {(family, section)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], model.Model]:
    """A tiny model of a family, with a ControlNet."""

    @cache
    def make(family: str) -> model.Model:
        loaded = model.load(getattr(tiny, family)(tmp_path_factory.mktemp("models") / family).as_posix())
        torch.manual_seed(5)
        control = ControlNetModel.from_unet(loaded["unet"], conditioning_embedding_out_channels=(16, 16, 16, 16)).eval()
        with torch.no_grad():
            for each in control.parameters():
                each.add_(0.1 * torch.randn(each.shape))  # its convolutions begin as zeros
        return loaded.with_parts(controlnet=control)

    return make


def inputs(section: str, whole: model.Model, seed: int = 6) -> tuple[torch.Tensor, ...]:
    """What a section takes."""
    torch.manual_seed(seed)
    if section.startswith("text"):
        return (torch.randint(0, 500, (BATCH, 77)),)
    if section == "encoder":
        return (torch.rand(BATCH, 3, 8 * SIDE, 8 * SIDE) * 2 - 1,)
    sample = torch.randn(BATCH, 4, SIDE, SIDE)
    if section == "decoder":
        return (sample,)
    config = whole["unet"].config
    given = [sample, torch.tensor([981.0, 13.0]), torch.randn(BATCH, 77, config.cross_attention_dim)]
    if config.addition_embed_type:
        given += [torch.randn(BATCH, 32), torch.full((BATCH, 6), 61.0)]
    control = torch.rand(BATCH, 3, 8 * SIDE, 8 * SIDE)
    if section == "controlnet":
        return (*given, control)
    if section == "unet_controlled":
        with torch.no_grad():
            return (*given, *flat_modules.flat("controlnet", whole["controlnet"])(*given, control))
    return tuple(given)


def other(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every number another one, be the tensor small or large."""
    torch.manual_seed(7)
    return {name: each + 0.02 * torch.randn(each.shape) for name, each in weights.items()}


def copies(net: Flat) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in net.weights().items()}


@torch.no_grad()
def plain(net: Flat, weights: dict[str, torch.Tensor], given: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    before = copies(net)
    net.load(weights)
    answer = [each.clone() for each in net(*given)]
    net.load(before)
    return answer


def apart(one: Sequence[torch.Tensor], two: Sequence[torch.Tensor]) -> float:
    """The largest relative distance of two answers."""
    assert [each.shape for each in one] == [each.shape for each in two]
    assert {each.dtype for each in one} == {torch.float32}
    return max(float((a - b).norm() / b.norm()) for a, b in zip(one, two, strict=True))


@dataclass(frozen=True)
class Built:
    """A program, the net that it was made from, with its own numbers, and what it takes."""

    folder: Path
    net: Flat
    weights: dict[str, torch.Tensor]
    given: tuple[torch.Tensor, ...]

    def opened(self, candidate: Candidate) -> Runner:
        return backend.backend(candidate.backend).load_program(self.folder, candidate, self.net, CPU)


@pytest.fixture(scope="module")
def built(made, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, Candidate], Built]:
    @cache
    def build(family: str, section: str, candidate: Candidate) -> Built:
        whole = made(family)
        net = flat_modules.flat(section, whole[flat_modules.SECTIONS[section]])
        told = Built(tmp_path_factory.mktemp("program"), net, copies(net), inputs(section, whole))
        backend.backend(candidate.backend).build(Job(net, [told.given]), candidate, told.folder)
        net.load(told.weights)
        return told

    return build


@pytest.mark.parametrize(("family", "section", "candidate"), cases())
def test_a_program_follows_its_weights(built, family: str, section: str, candidate: Candidate, capfd):
    program = built(family, section, candidate)
    net, mine, given = program.net, program.weights, program.given
    changed = other(mine)
    answers = plain(net, mine, given), plain(net, changed, given)
    room = WITHIN[candidate.precision]
    assert apart(answers[1], answers[0]) > 2 * room

    runner = program.opened(candidate)
    runner.load(mine)
    first = [each.clone() for each in runner(*given)]
    assert apart(first, answers[0]) < room
    runner.load(changed)
    assert apart(runner(*given), answers[1]) < room
    runner.load(mine)
    assert all(map(torch.equal, runner(*given), first))
    assert not held(program, DTYPES.get(candidate.precision, torch.float32))
    assert capfd.readouterr().out == ""


def held(program: Built, dtype: torch.dtype) -> list[str]:
    """Weights that lie in the files of a program."""
    written = b"".join(path.read_bytes() for path in program.folder.rglob("*") if path.is_file())
    varied = {name: each for name, each in program.weights.items() if each.unique().numel() > 8}
    return [
        name
        for name, each in varied.items()
        if each.flatten()[:16].to(dtype).view(torch.uint8).numpy().tobytes() in written
    ]


@pytest.mark.slow
def test_programs_run_in_another_process(built, made, tmp_path: Path):
    programs = {each: built("sd1", "decoder", each) for each in FIRSTS}
    program = programs[FIRSTS[0]]
    wanted = plain(program.net, program.weights, program.given)
    made("sd1")["vae"].save_pretrained(tmp_path / "vae")
    torch.save((program.given, wanted), tmp_path / "call.pt")
    code = (
        "import sys, torch\n"
        "from diffusers import AutoencoderKL\n"
        "from pathlib import Path\n"
        "from tenshot.runtime import flat_modules\n"
        "from tenshot.runtime.backend import Candidate, backend\n"
        "place, *rest = sys.argv[1:]\n"
        "net = flat_modules.flat('decoder', AutoencoderKL.from_pretrained(place + '/vae').eval())\n"
        "given, wanted = torch.load(place + '/call.pt')\n"
        "while rest:\n"
        "    folder, *words, _ = rest[: rest.index('-') + 1]\n"
        "    candidate = Candidate(*words)\n"
        "    runner = backend(candidate.backend).load_program(Path(folder), candidate, net, torch.device('cpu'))\n"
        "    runner.load(net.weights())\n"
        "    torch.testing.assert_close(runner(*given), tuple(wanted), rtol=1e-4, atol=1e-4)\n"
        "    rest = rest[rest.index('-') + 1 :]\n"
    )
    words = [
        [str(told.folder), *filter(None, [each.backend, each.precision, each.variant]), "-"]
        for each, told in programs.items()
    ]
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *chain.from_iterable(words)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_the_functions_of_the_contract(name: str):
    module = import_module(BACKENDS[name])
    assert backend.FUNCTIONS == ("missing", "candidates", "build", "load_program")
    for each in backend.FUNCTIONS:
        contract = get_type_hints(getattr(backend.Backend, each))
        found = get_type_hints(getattr(module, each))
        returned, promised = found.pop("return"), contract.pop("return")
        assert list(found.items()) == list(contract.items())
        assert returned == promised or (promised is Runner and {"__call__", "load"} <= vars(returned).keys())


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("json.decoder", "no missing, candidates, build, load_program"), ("json.nothing", "cannot be used")],
)
def test_a_module_that_is_no_backend_is_refused(name: str, lacks: str):
    with pytest.raises(Refusal, match=lacks):
        backend.backend(name)


def test_tensorrt_says_what_it_needs():
    here, there = (backend.backend("tensorrt").missing(torch.device(kind)) for kind in ("cpu", "cuda"))
    assert "GPU" in here
    assert find_spec("tensorrt") or there == "pip install 'tenshot[tensorrt]'"


@pytest.mark.skipif("onnxruntime" not in HERE, reason="needs tenshot[onnx]")
def test_a_filled_graph_is_the_net_with_its_marks(made, tmp_path: Path):
    import onnxruntime

    whole = made("sd2_v")
    net, given = flat_modules.flat("text_encoder", whole["text_encoder"]), inputs("text_encoder", whole)
    cast = flat_modules.Cast(net, torch.float32, CPU)
    onnx_graph.write(cast, given, tmp_path / "net.onnx", filled=True)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: given[0].numpy()})
    with torch.no_grad():
        assert apart(list(map(torch.from_numpy, found)), cast(*given)) < WITHIN["fp32"]
    assert apart(cast(*given), net(*given)) > WITHIN["fp32"]


def test_without_a_compiler_nothing_is_built(made, tmp_path: Path):
    from torch._inductor import config

    net = flat_modules.flat("decoder", made("sd1")["vae"])
    job = Job(net, [inputs("decoder", made("sd1"))])
    with config.patch({"cpp.cxx": (None, "no-such-compiler")}), pytest.raises(Refusal, match=r"no C\+\+ compiler"):
        aotinductor.build(job, Candidate("aotinductor", "fp32"), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif("aotinductor" not in HERE, reason="needs a C++ compiler")
def test_a_library_takes_the_weights_of_no_other_net(built, made):
    candidate = next(each for each in FIRSTS if each.backend == "aotinductor")
    program = built("sd1", "text_encoder", candidate)
    strange = flat_modules.flat("encoder", made("sd1")["vae"])
    with pytest.raises(Refusal, match="not as the library reads them"):
        aotinductor.load_program(program.folder, candidate, strange, CPU)
    with pytest.raises(Refusal, match="not as the library reads them"):
        aotinductor.load_program(program.folder, Candidate("aotinductor", "bf16"), program.net, CPU)


@pytest.mark.skipif(not find_spec("openvino"), reason="needs tenshot[openvino]")
@pytest.mark.parametrize("shape", ([6, 3, 3, 3], [6, 5], [1, 5]))
def test_eight_bits_are_those_that_openvino_would_round_to(shape: list[int]):
    import openvino
    from openvino import opset13

    torch.manual_seed(0)
    weight = torch.randn(shape)
    weight[0] *= 100
    weight[-1] = 0 if shape[0] > 1 else weight[-1]
    whole, scale = Int8Weight("", "", "", 0.9, shape[0]).rounded(weight)
    bound = (0.9 * weight.flatten(1).abs().amax(1)).clamp_min(0.9e-12).reshape([-1, *[1] * (len(shape) - 1)]).numpy()
    given = opset13.parameter(shape)
    rounded = opset13.fake_quantize(given, -bound, bound, -bound, bound, 255)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    theirs = openvino.compile_model(openvino.Model([rounded], [given]), "CPU", settings)(weight.numpy())[0]
    steps = torch.from_numpy(theirs).flatten(1) / scale[:, None]
    assert torch.allclose(steps, whole.float(), atol=1e-3) and whole.abs().max() == 127


HEARS = """
import gc, os, signal, sys, time
from pathlib import Path
import torch
from tenshot.io import tensors
from tenshot.runtime import backend
from tenshot.runtime.backend import Candidate

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
folder = Path(sys.argv[1])
weights, candidate = tensors.read(folder / "weights.safetensors"), Candidate("openvino", "fp32")
runners = [backend.backend("openvino").load_program(folder, candidate, None, torch.device("cpu")) for _ in range(2)]
for runner in runners:
    runner.load(weights)
del runner
while runners:
    del runners[0]
    gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    print("heard")
"""


@pytest.mark.skipif("openvino" not in HERE, reason="needs tenshot[openvino]")
def test_ctrl_c_is_heard_when_programs_are_gone(built, tmp_path: Path):
    program = built("sd1", "text_encoder", Candidate("openvino", "fp32"))
    shutil.copytree(program.folder, tmp_path / "program")
    tensors.write(tmp_path / "program" / "weights.safetensors", program.weights)
    source = os.environ | {"PYTHONPATH": str(Path(tenshot.__file__).parents[1])}
    command = [sys.executable, "-c", HEARS, str(tmp_path / "program")]
    done = subprocess.run(command, env=source, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("openvino") and find_spec("nncf")), reason="needs tenshot[openvino]")
def test_eight_bits_stay_within_the_error_that_compile_allows(tmp_path: Path):
    whole = model.load("pocket")
    prompts = ["a 3d emoji of a cat on a blue background", "a flat emoji of a panda on a white background"]
    recorded, _ = calibration.record(whole, prompts, SamplingSettings(steps=20, batch=1), Events())
    calls, net = recorded["unet"], flat_modules.flat("unet", whole["unet"])
    candidate, weights = Candidate("openvino", "int8"), copies(net)
    backend.backend("openvino").build(Job(net, calls.inputs), candidate, tmp_path)
    runner = backend.backend("openvino").load_program(tmp_path, candidate, net, CPU)
    runner.load(weights)
    errors = [apart(runner(*given), wanted) for given, wanted in zip(calls.inputs, calls.outputs, strict=True)]
    assert max(errors) < CompileOptions.model_fields["max_error"].default
    assert max(errors) > 1e-3  # it is eight bits
