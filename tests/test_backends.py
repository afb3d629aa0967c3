"""Every backend that this machine can build says what the plain net says, with whichever weights it is given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file

from tenshot import model
from tenshot.fast import backend, parts
from tenshot.fast.backend import BACKENDS, Candidate, Job
from tenshot.fast.parts import Flat
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
CANDIDATES = [candidate for name in HERE for candidate in backend.backend(name).candidates(CPU)]
SLOW = {"aotinductor"}  # to build: some of its cases wait for `make test-slow`
Case = tuple[str, str, Candidate]


def cases() -> list[object]:
    """The first way of a backend to run for every section, the others for one."""
    firsts = [next(each for each in CANDIDATES if each.backend == name) for name in HERE]
    every = [(family, section, first) for family in SECTIONS for section in SECTIONS[family] for first in firsts]
    every += [("sd1", "unet", each) for each in CANDIDATES if each not in firsts]
    return [
        pytest.param(*case, id="-".join(map(str, case)).replace(" ", "-"), marks=pytest.mark.slow if late(case) else ())
        for case in every
    ]


def late(case: Case) -> bool:
    family, section, candidate = case
    return candidate.backend in SLOW and ((family, section) != ("sd1", "unet") or candidate.precision != "fp32")


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
            return (*given, *parts.flat("controlnet", whole["controlnet"])(*given, control))
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


def apart(one: tuple[torch.Tensor, ...], two: list[torch.Tensor]) -> float:
    """The largest relative distance of two answers."""
    assert [each.shape for each in one] == [each.shape for each in two]
    assert {each.dtype for each in one} == {torch.float32}
    return max(float((a - b).norm() / b.norm()) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(("family", "section", "candidate"), cases())
def test_a_program_follows_its_weights(made, family: str, section: str, candidate: Candidate, tmp_path: Path, capfd):
    whole = made(family)
    net = parts.flat(section, whole[parts.SECTIONS[section]])
    given, mine = inputs(section, whole), copies(net)
    changed = other(mine)
    answers = plain(net, mine, given), plain(net, changed, given)
    room = WITHIN[candidate.precision]
    assert apart(tuple(answers[1]), answers[0]) > 2 * room

    way = backend.backend(candidate.backend)
    way.build(Job(net, [given]), candidate, tmp_path)
    net.load(mine)
    runner = way.open(tmp_path, candidate, net, CPU)
    runner.load(mine)
    first = runner(*given)
    assert apart(first, answers[0]) < room
    again = [each.clone() for each in first]
    runner.load(changed)
    assert apart(runner(*given), answers[1]) < room
    runner.load(mine)
    assert all(map(torch.equal, runner(*given), again))
    assert capfd.readouterr().out == ""


def test_a_program_runs_in_another_process(made, tmp_path: Path):
    whole = made("sd1")
    net = parts.flat("decoder", whole["vae"])
    given, mine = inputs("decoder", whole), copies(net)
    chosen = [next(each for each in CANDIDATES if each.backend == name) for name in HERE if name not in SLOW]
    for candidate in chosen:
        (tmp_path / candidate.backend).mkdir()
        backend.backend(candidate.backend).build(Job(net, [given]), candidate, tmp_path / candidate.backend)
    net.load(mine)
    whole["vae"].save_pretrained(tmp_path / "vae")
    save_file({"given": given[0], "wanted": plain(net, mine, given)[0].contiguous()}, tmp_path / "call.safetensors")
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from diffusers import AutoencoderKL\n"
        "from safetensors.torch import load_file\n"
        "from tenshot.fast import parts\n"
        "from tenshot.fast.backend import Candidate, backend\n"
        "place = Path(sys.argv[1])\n"
        "net = parts.flat('decoder', AutoencoderKL.from_pretrained(place / 'vae').eval())\n"
        "call = load_file(place / 'call.safetensors')\n"
        "for name in sys.argv[2:]:\n"
        "    candidate = Candidate(name, 'fp32')\n"
        "    runner = backend(name).open(place / name, candidate, net, torch.device('cpu'))\n"
        "    runner.load(net.weights())\n"
        "    torch.testing.assert_close(runner(call['given'])[0], call['wanted'], rtol=1e-4, atol=1e-4)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path), *(candidate.backend for candidate in chosen)]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_programs_hold_no_weights(made, tmp_path: Path):
    whole = made("sd1")
    net = parts.flat("unet", whole["unet"])
    mine = copies(net)
    varied = (each for each in mine.values() if each.unique().numel() > 8)
    needles = [each.numpy().tobytes()[:64] for each in varied]
    for candidate in (each for each in CANDIDATES if each.precision == "fp32" and each.backend not in SLOW):
        folder = tmp_path / str(candidate).replace(" ", "-")
        folder.mkdir()
        backend.backend(candidate.backend).build(Job(net, [inputs("unet", whole)]), candidate, folder)
        net.load(mine)
        written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
        assert not [each for each in needles if each in written], candidate
