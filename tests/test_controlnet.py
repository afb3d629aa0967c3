"""ControlNets in drawing: as diffusers' pipelines have them, in WebUI's modes, compiled, and by the verb."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from PIL import Image

import tenshot
from tenshot import pipeline
from tenshot.cli.main import main
from tenshot.core.errors import Refusal, Slow
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.core.size import Size
from tenshot.families import config_from_shapes, keymaps
from tenshot.families.base import Family
from tenshot.families.registry import FAMILIES
from tenshot.generate import controlnet_faults, controlnets, generate
from tenshot.generate.controlnet_options import Asked
from tenshot.generate.options import GenerateOptions
from tenshot.io.png import read_infotext
from tenshot.model import model
from tenshot.model.control import Control, Unit, residuals
from tenshot.model.model import Model
from tenshot.pipeline import Request, SamplingSettings
from tests import artifacts
from tests.hub_server import Hub
from tests.infotext import parse_infotext
from tests.test_pictures_in import apart, mask, picture

SIZE = Size(64, 64)
SETTINGS = SamplingSettings("Euler", 4, 5.0, SIZE)
LONG = "a bear " * 60


def a_controlnet(place: Path, unet: Path, seed: int = 5) -> Path:
    """Of the UNet's shape, with answers that matter: those of zero convolutions would hide a wrong one."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(model.load(str(unet)).denoiser)
    for name, tensor in net.named_parameters():
        if name.startswith(("controlnet_", "conv_in")):
            torch.nn.init.normal_(tensor, std=0.1)
    net.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def nets(sd1_controlnets: Path) -> list[Path]:
    return [sd1_controlnets / "edges5", sd1_controlnets / "edges6"]


@pytest.fixture(scope="module")
def net_xl(sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_controlnet(tmp_path_factory.mktemp("controlnets") / "xl", sdxl)


def unit(place: Path, *more: Any, **others: Any) -> Unit:
    return Unit(model.load_controlnet(place, "cpu"), *more, **others)


def drawn(whole: Model, units: list[Unit], shown: list[Image.Image], prompt: str = "a", **more: Any) -> torch.Tensor:
    settings = replace(SETTINGS, control=units, **more)
    return pipeline.latents(whole, [Request(prompt, 3, control=shown)], settings)


def by_diffusers(whole: Model, units: list[Unit], shown: list[Image.Image], guidance: float = 5.0) -> torch.Tensor:
    scheduler = EulerDiscreteScheduler.from_config(dict(whole.scheduler_config), timestep_spacing="linspace")
    parts = {**whole.parts, "scheduler": scheduler}
    several = [each.net for each in units]
    parts["controlnet"] = several if len(several) > 1 else several[0]
    if "text_encoder_2" in parts:
        pipe: Any = StableDiffusionXLControlNetPipeline(**parts, add_watermarker=False)
    else:
        pipe = StableDiffusionControlNetPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)

    def each(values: list[Any]) -> Any:
        return values if len(values) > 1 else values[0]

    return pipe(
        "a",
        image=each(shown),
        height=64,
        width=64,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)),
        controlnet_conditioning_scale=each([one.weight for one in units]),
        control_guidance_start=each([one.start for one in units]),
        control_guidance_end=each([one.end for one in units]),
        output_type="latent",
    ).images


@pytest.mark.parametrize(
    "numbers",
    [[(1.0,)], [(0.6, 0.0, 0.5)], [(1.5, 0.3, 1.0)], [(0.7, 0.25, 0.75)], [(0.5,), (0.8, 0.5)], [(1.0, 0.6, 0.7)]],
)
def test_as_diffusers_draws(sd1: Path, nets: list[Path], numbers: list[tuple[float, ...]]):
    """One and several, over all steps, some of them, and none."""
    whole = model.load(str(sd1))
    units = [unit(place, *each) for place, each in zip(nets, numbers, strict=False)]
    shown = [picture(seed=seed) for seed in range(len(units))]
    expected = by_diffusers(whole, units, shown)
    assert apart(drawn(whole, units, shown), expected) < 1e-4
    works = any(each.works(step, 4) for each in units for step in range(4))
    assert (apart(drawn(whole, [], []), expected) > 1e-2) == works


def test_as_diffusers_draws_without_guidance(sd1: Path, nets: list[Path]):
    whole, units, shown = model.load(str(sd1)), [unit(nets[0])], [picture()]
    assert apart(drawn(whole, units, shown, guidance=1.0), by_diffusers(whole, units, shown, 1.0)) < 1e-4


def test_as_diffusers_draws_with_sdxl(sdxl: Path, net_xl: Path):
    whole, units, shown = model.load(str(sdxl)), [unit(net_xl, 0.8)], [picture()]
    expected = by_diffusers(whole, units, shown)
    assert apart(drawn(whole, units, shown), expected) < 1e-4
    assert apart(drawn(whole, [], []), expected) > 1e-2


class Told:
    """A ControlNet that answers ones."""

    def __init__(self, layers: int) -> None:
        self.layers = layers

    def __call__(self, seen: torch.Tensor, *_: Any, **__: Any) -> Any:
        ones = torch.ones(len(seen), 1, 1, 1)
        return (ones,) * (self.layers - 1), ones


@pytest.mark.parametrize("mode", ["balanced", "prompt", "control"])
def test_modes_scale_layers_and_rows(mode: Any):
    """WebUI's numbers: thirteen answers, .825 to the twelfth to one; SDXL's are the first ten of these."""
    seen = torch.zeros(2, 4, 8, 8)
    for layers in (13, 10):
        shown = Control([Unit(Told(layers), 0.5, mode=mode)], [torch.zeros(1, 3, 64, 64)], 4).at(0)  # type: ignore[arg-type]
        down, middle = residuals(seen, torch.ones(2), {}, [shown, shown], [False, True])
        soft = np.array([0.825**power for power in range(12, 12 - layers, -1)])
        expected = 0.5 * (np.ones(layers) if mode == "balanced" else soft)
        found = torch.cat([each.view(2, 1) for each in (*down, middle)], 1).numpy()
        assert np.allclose(found[1], expected) and np.allclose(found[0], 0 if mode == "control" else expected)


@pytest.mark.parametrize("mode", ["balanced", "prompt", "control"])
def test_the_negative_prompt_hears_the_controlnet_unless_that_counts_more(sd1: Path, nets: list[Path], mode: Any):
    """One step is linear in the answers: with and without the prompt each is drawn alone."""
    whole, shown = model.load(str(sd1)), [picture()]
    net = unit(nets[0], mode=mode)
    soft = replace(net, mode="balanced" if mode == "balanced" else "prompt")
    prompted = drawn(whole, [soft], shown, "a", steps=1, guidance=1.0)
    heard = ([], []) if mode == "control" else ([soft], shown)
    without = drawn(whole, *heard, "", steps=1, guidance=1.0)
    found = drawn(whole, [net], shown, "a", steps=1)
    assert apart(found, without + 5 * (prompted - without)) < 1e-4


def test_batches_long_prompts_and_samplers_that_ask_twice(sd1: Path, nets: list[Path]):
    """The second picture is the one that is drawn alone: each row sees its own control picture."""
    whole = model.load(str(sd1))
    for sampler, prompt, mode in (
        ("Euler", LONG, "balanced"),
        ("Heun", "a", "control"),
        ("Euler", "a AND b", "control"),
    ):
        settings = replace(SETTINGS, sampler=sampler, control=[unit(nets[0], end=0.5, mode=mode)])
        asked = [Request(prompt, seed, control=[picture(seed=seed)]) for seed in (1, 2)]
        asked[0] = replace(asked[0], prompt="a")
        both, alone = (pipeline.latents(whole, each, settings) for each in (asked, asked[1:]))
        assert apart(both[1:], alone) < 1e-4
        other = pipeline.latents(whole, [replace(asked[1], control=[picture(seed=9)])], settings)
        assert apart(other, alone) > 1e-3


def test_with_a_picture_to_begin_with_and_a_mask(sd1: Path, nets: list[Path]):
    whole, start = model.load(str(sd1)), picture()
    asked = Request("a", 3, image=start, mask=mask(), control=[picture(seed=1)])
    plain, more = (
        pipeline.latents(whole, [asked], replace(SETTINGS, strength=0.75, control=units))
        for units in ([unit(nets[0], 0.0)], [unit(nets[0])])
    )
    assert torch.equal(plain[..., 4:], more[..., 4:]) and apart(more[..., :4], plain[..., :4]) > 1e-2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("net", ("net", 1, 0, 1)),
        ("org/name@main:net=.5", ("org/name@main:net", 0.5, 0, 1)),
        ("net=0.8@0.1-0.9", ("net", 0.8, 0.1, 0.9)),
        ("net=@0-.5", ("net", 1, 0, 0.5)),
        ("net=0@0-0", ("net", 0, 0, 0)),
    ],
)
def test_a_controlnet_on_the_command_line(text: str, expected: tuple[Any, ...]):
    asked = Asked.parsed(text)
    assert (asked.place, asked.weight, asked.start, asked.end) == expected


@pytest.fixture
def draw(sd1: Path, nets: list[Path], tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    picture().save(tmp_path / "map.png")

    def made(**given: Any) -> list[dict[str, Any]]:
        told = {"model": str(sd1), "prompt": ["a bear"], "steps": 2, "seed": 1, "out": tmp_path / "out"}
        told |= {"control_image": [tmp_path / "map.png"], "controlnet": [str(nets[0])], **given}
        return generate.generate(resolve(GenerateOptions, told), Events())["pictures"]

    return made


def test_the_verb_draws_with_several_and_says_so(draw: Callable[..., Any], nets: list[Path]):
    (plain,) = draw(controlnet=[], control_image=[])
    (made,) = draw(
        controlnet=[str(nets[0]), f"{nets[1]}=0.5@0-0.5"],
        control_preprocessor=["canny", "none"],
        control_mode=["control"],
        control_resize=["crop", "fill"],
        canny_low=20,
        canny_high=60,
    )
    assert (np.asarray(Image.open(made["file"])) != np.asarray(Image.open(plain["file"]))).any()
    facts = parse_infotext(read_infotext(Path(made["file"])) or "")[2]
    first, second = (dict(part.split(": ") for part in facts[f"ControlNet {n}"].split(", ")) for n in (0, 1))
    assert first["Module"] == "canny" and first["Threshold B"] == "60" and first["Model"].startswith("edges5 [")
    assert first["Control Mode"] == "ControlNet is more important" and first["Weight"] == "1"
    assert (second["Module"], second["Weight"], second["Guidance End"]) == ("none", "0.5", "0.5")
    assert (first["Resize Mode"], second["Resize Mode"]) == ("Crop and Resize", "Resize and Fill")
    assert "ControlNet 0" not in parse_infotext(read_infotext(Path(plain["file"])) or "")[2]


def test_a_file_draws_as_its_folder(draw: Callable[..., Any], nets: list[Path], tmp_path: Path):
    shutil.copy(nets[0] / "diffusion_pytorch_model.safetensors", tmp_path / "edges.safetensors")
    shutil.copy(nets[0] / "config.json", tmp_path / "config.json")
    for precision in ("fp32", "bf16"):
        one, other = (
            draw(controlnet=[str(each)], precision=precision)[0]["file"]
            for each in (nets[0], tmp_path / "edges.safetensors")
        )
        assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"controlnet": ["NET", "NET"], "control_image": ["map.png"] * 3}, ["3 for 2 --controlnet"]),
        ({"control_image": []}, ["0 for 1 --controlnet"]),
        ({"controlnet": []}, ["--control_image: without --controlnet"]),
        ({"controlnet": ["NET=3@0.8-0.2"]}, ["a weight of 3", "from 0.8 to 0.2"]),
        ({"controlnet": ["NET=strong"]}, ["'strong' is no weight"]),
        ({"canny_low": 201}, ["201, and --canny_high is 200"]),
        ({"controlnet": ["LORA"]}, ["is a LoRA, no net"]),
        ({"controlnet": ["nothing.safetensors=0.5"]}, ["nothing.safetensors: no such file"]),
        ({"controlnet": ["XL"], "control_image": ["text.png"]}, ["Stable Diffusion XL", "no picture inside"]),
        ({"controlnet": ["VAE", "XL"], "control_image": ["bomb.png"]}, ["AutoencoderKL", "XL", "megapixels"]),
        ({"model": "SD3", "control_image": ["cut.png"]}, ["ControlNets for Stable Diffusion 3", "cut.png"]),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    draw: Callable[..., Any],
    given: dict[str, Any],
    found: list[str],
    nets: list[Path],
    net_xl: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
):
    lora = request.getfixturevalue("sd1_lora")
    places = {"NET": nets[0], "LORA": lora, "XL": net_xl, "VAE": request.getfixturevalue("sd1") / "vae"}
    (tmp_path / "text.png").write_text("a picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "map.png").read_bytes()[:200])
    told = dict(given)
    if "bomb.png" in told.get("control_image", []):  # which takes half a second
        Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    if "controlnet" in told:
        told["controlnet"] = [
            "=".join([str(places.get(name, name)), *rest]) for name, *rest in (e.split("=") for e in told["controlnet"])
        ]
    if "control_image" in told:
        told["control_image"] = [tmp_path / each for each in told["control_image"]]
    if "model" in told:
        told["model"] = str(request.getfixturevalue("sd3"))
    with pytest.raises(Refusal) as refusal:
        draw(**told)
    faults = [str(fault) for fault in refusal.value.faults]
    assert len(faults) == len(found), faults
    assert all(any(part in fault for fault in faults) for part in found), faults
    assert not (tmp_path / "out").exists()


def test_without_opencv_canny_is_refused(draw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(controlnet_faults, "find_spec", lambda _: None)
    with pytest.raises(Refusal, match="OpenCV's, which is not installed") as refusal:
        draw(control_preprocessor=["canny"])
    assert "tenshot[controlnet]" in refusal.value.faults[0].do


def test_an_original_file_draws_as_its_folder(draw: Callable[..., Any], nets: list[Path], tmp_path: Path):
    assert main(["convert", str(nets[0]), str(tmp_path / "original.safetensors")]) == 0
    one, other = (draw(controlnet=[str(each)])[0]["file"] for each in (nets[0], tmp_path / "original.safetensors"))
    assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))


RELEASED = [family for family in FAMILIES if family.takes_controlnet]


@pytest.mark.parametrize("family", RELEASED, ids=lambda family: family.name)
def test_files_of_released_sizes_fit_their_own_family_alone(family: Family):
    """By the shapes alone, in either layout."""
    with torch.device("meta"):
        unets = {each.name: UNet2DConditionModel(**each.released["unet"]) for each in RELEASED}
        net = ControlNetModel.from_unet(unets[family.name], load_weights_from_unet=False)
    today = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    lines = keymaps.controlnet(dict(net.config), today)
    assert all(len(line.ours) == 1 for line in lines)
    original = {line.theirs: today[line.ours[0]] for line in lines}
    read = (config_from_shapes.controlnet(original), config_from_shapes.controlnet_today(today), dict(net.config))
    for config in read:
        for other in RELEASED:
            faults = [*controlnet_faults._misfits(Path("net"), config, dict(unets[other.name].config), other)]
            assert (not faults) == (other is family)
            assert all(family.title in fault.found and other.title in fault.fits for fault in faults)


def test_a_name_of_the_hub(draw: Callable[..., Any], nets: list[Path], served: Hub):
    served.add("org/edges", nets[0])
    one, other = (draw(controlnet=[f"{name}=0.5@0-0.5"])[0]["file"] for name in (nets[0], "org/edges"))
    assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))
    told = parse_infotext(read_infotext(Path(other)) or "")[2]["ControlNet 0"]
    assert "Model: edges [" in told and "Weight: 0.5" in told and "Guidance End: 0.5" in told


def test_the_command_line_refuses_with_two(sd1: Path, nets: list[Path], tmp_path: Path, capsys: Any):
    words = ["generate", "--model", str(sd1), "--prompt", "a", "--out", str(tmp_path / "out"), "--json"]
    assert main([*words, "--controlnet", f"{nets[0]}=9", "--control_mode", "prompt"]) == 2
    told = capsys.readouterr().out
    assert "a weight of 9" in told and "0 for 1 --controlnet" in told and not (tmp_path / "out").exists()
    assert main([*words, "--controlnet", str(sd1 / "vae"), "--steps", "0"]) == 2
    told = capsys.readouterr().out
    assert "AutoencoderKL" in told and "--steps" in told


@pytest.mark.slow
def test_compiled_draws_as_torch(sd1: Path, nets: list[Path], tmp_path: Path, recwarn: pytest.WarningsRecorder):
    """All modes are one program's; a ControlNet that the model was not compiled with is torch's."""
    sections = ("unet", "unet_controlled", "controlnet", "text_encoder", "decoder")
    fast = tenshot.load(artifacts.made(sd1, tmp_path / "fast", sections=sections, controlnet=nets[0]))
    plain, listener = tenshot.load(str(sd1)), artifacts.Listener()
    for place in nets:
        for mode in ("balanced", "prompt", "control"):
            found = []
            for opened in (plain, fast):
                asked = controlnets.ControlNet(Asked(str(place), end=0.5), picture(), "none", mode, (100, 200))
                units = controlnets.units([asked], opened, {}, listener)
                found.append(drawn(opened, list(units), [picture()]))
            assert (units[0].net is fast["controlnet"]) == (place == nets[0])
            assert apart(*found) < 1e-3
    assert not [each for each in recwarn if issubclass(each.category, Slow)]
    assert listener.said == [f"{nets[1]} is not the ControlNet that the model is compiled with: torch runs it"] * 3
