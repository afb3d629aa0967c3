"""What a picture says of how it was drawn, whether that is at hand, and the command that draws it again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tenshot.cli.main import main
from tenshot.io import infotext
from tenshot.io.png import read_infotext, write_picture
from tests.hub_server import Hub
from tests.test_again import CIVITAI, WEBUI
from tests.test_checkpoints import run
from tests.test_inspect import told as told
from tests.test_next_commands import accepted


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(name: str, text: str) -> Path:
    write_picture(Path(name), Image.new("RGB", (8, 16), "red"), text)
    return Path(name)


def pixels(file: str) -> np.ndarray:
    return np.asarray(Image.open(file))


def rows(found: dict[str, Any]) -> list[tuple[str, str, bool]]:
    return [(each["what"], each["name"], each["at_hand"]) for each in found["resources"]]


def test_the_next_line_draws_the_same_picture(sd1: Path, sd1_lora: Path, told: Any):
    """With a model, a VAE, a LoRA and a learned word that lie where user interfaces have them."""
    for folder in ("models/Stable-diffusion", "models/Lora", "models/VAE", "embeddings", "elsewhere"):
        Path(folder).mkdir(parents=True)
    run(sd1, Path("elsewhere/bears.safetensors"))
    run(sd1 / "vae", Path("models/VAE/clear.safetensors"))
    Path("models/Lora/az.safetensors").write_bytes(sd1_lora.read_bytes())
    save_file({"emb_params": torch.randn(2, 16)}, "embeddings/furry.safetensors")
    words = ["--prompt", "a (bear:1.3) furry <lora:az:0.7>", "--model", "elsewhere/bears.safetensors", "--steps", "2"]
    more = ["--vae", "models/VAE/clear.safetensors", "--embedding", "embeddings/furry.safetensors", "--seed", "3"]
    assert main(["generate", *words, *more, "--negative_prompt", "x: y", "--out", "a.png"]) == 0
    found = told(Path("a.png"))
    assert (found["what"], found["size"], found["prompt"]) == ("picture", "64x64", words[1])
    assert found["negative_prompt"] == "x: y" and found["settings"]["Steps"] == "2" and not found["notes"]
    assert rows(found) == [
        *(("model", "bears", True), ("vae", "clear.safetensors", True)),
        *(("lora", "az", True), ("embedding", "furry", True)),
    ]
    (line,) = found["next"]
    assert main([*shlex.split(line)[1:], "--out", "b.png"]) == 0
    assert (pixels("a.png") == pixels("b.png")).all() and read_infotext(Path("a.png")) == read_infotext(Path("b.png"))
    assert main([*shlex.split(line)[1:], "--seed", "4", "--out", "c.png"]) == 0
    assert (pixels("a.png") != pixels("c.png")).any()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_pictures_of_webui(name: str, told: Any, sd1: Path):
    found = told(saved(name, WEBUI))
    assert found["prompt"].startswith("a (cat:1.2)") and found["settings"]["Sampler"] == "DPM++ 2M SDE"
    assert rows(found) == [("model", "v1-5-pruned", False), ("vae", "vae.pt", False), ("lora", "az", False)]
    assert [each["hash"] for each in found["resources"]] == ["6ce0161689", "735e4c3a44", "0123456789ab"]
    assert len(found["notes"]) == 1 and "noise from GPU" in found["notes"][0]
    assert found["next"] == [f"tenshot generate --from {name} --model MODEL --vae VAE --lora_dir FOLDER"]
    accepted(found["next"][0], MODEL=sd1, VAE=sd1 / "vae", FOLDER=Path())


def test_another_file_of_the_name_is_not_at_hand(sd1: Path, sd1_lora: Path, told: Any):
    for folder in ("models/Stable-diffusion", "models/checkpoints", "loras"):
        Path(folder).mkdir(parents=True)
    Path("loras/az.safetensors").write_bytes(sd1_lora.read_bytes())
    run(sd1, Path("models/checkpoints/v1-5-pruned.safetensors"))
    found = told(saved("a.png", WEBUI))
    assert [(each["at_hand"], each.get("another_hash"), each.get("file")) for each in found["resources"]] == [
        (False, True, "models/checkpoints/v1-5-pruned.safetensors"),
        (False, None, None),
        (False, True, "loras/az.safetensors"),
    ]
    auto_v2 = told(Path("models/checkpoints/v1-5-pruned.safetensors"))["auto_v2"]
    Path("models/Stable-diffusion/v1-5-pruned.ckpt").write_bytes(b"another one, looked at first")
    found = told(saved("b.png", WEBUI.replace("6ce0161689", auto_v2.upper())))
    assert found["resources"][0]["at_hand"] and found["resources"][0]["file"].endswith(".safetensors")


def test_a_checkpoint_that_was_used_here_is_found_by_its_hash(sd1: Path, told: Any):
    Path("deep/down").mkdir(parents=True)
    run(sd1, Path("deep/down/one.safetensors"))
    draw = ["generate", "--model", "deep/down/one.safetensors", "--prompt", "a", "--steps", "1", "--seed", "1"]
    assert main([*draw, "--out", "a.png"]) == 0
    (found,) = told(Path("a.png"))["resources"]
    assert found["at_hand"] and Path(found["file"]) == Path("deep/down/one.safetensors").resolve()
    Path("deep/down/one.safetensors").unlink()
    assert not told(Path("a.png"))["resources"][0]["at_hand"]


def test_controlnets_and_what_it_was_drawn_from(sd1: Path, told: Any):
    canny = "Module: canny, Model: edges [12345678], Weight: 0.8, Threshold A: 50, Threshold B: 150, "
    canny += "Guidance Start: 0.1, Guidance End: 0.9, Control Mode: ControlNet is more important"
    depth = "Module: depth_midas, Model: depth [87654321], Weight: 1, Guidance Start: 0, Guidance End: 1"
    facts = f'Steps: 2, Sampler: Restart, Schedule type: Beta, Seed: 1, Model: pocket, ControlNet 0: "{canny}", '
    facts += f'ControlNet 1: "{depth}", Denoising strength: 0.4, Mask blur: 4, Inpaint area: Only masked, RNG: CPU'
    found = told(saved("a.png", f"a bear\n{facts}, Masked area padding: 16"))
    assert rows(found) == [("model", "pocket", True), ("controlnet", "edges", False), ("controlnet", "depth", False)]
    words = shlex.split(found["next"][0])
    assert words[:8] == ["tenshot", "generate", "--from", "a.png", "--sampler", "SAMPLER", "--schedule", "SCHEDULE"]
    text = " ".join(words[8:])
    assert text == (
        "--controlnet CONTROLNET=0.8@0.1-0.9 --control_image IMAGE --control_preprocessor canny --canny_low 50 "
        "--canny_high 150 --control_mode control --controlnet CONTROLNET=1@0-1 --control_image IMAGE "
        "--control_preprocessor none --control_mode balanced --init_image IMAGE --strength 0.4 --mask MASK "
        "--mask_blur 4 --only_masked --only_masked_padding 16"
    )


def test_names_of_the_hub(served: Hub, sd1: Path, sd1_lora: Path, told: Any):
    served.add("somebody/tiny", sd1)
    served.add("somebody/az", {"az.safetensors": sd1_lora.read_bytes()})
    words = ["--model", "somebody/tiny", "--prompt", "a <lora:somebody/az:0.5>", "--steps", "1", "--seed", "1"]
    assert main(["generate", *words, "--out", "a.png"]) == 0
    found = told(Path("a.png"))
    assert [(what, at_hand) for what, _, at_hand in rows(found)] == [("model", True), ("lora", True)]
    assert found["next"] == ["tenshot generate --from a.png"]
    text = (read_infotext(Path("a.png")) or "").replace("somebody", "nobody")
    asked = len(served.asked)
    found = told(saved("b.png", text))
    assert [at_hand for *_, at_hand in rows(found)] == [False, False] and len(served.asked) == asked


def test_civitai_names_what_it_drew_with(told: Any):
    found = told(saved("a.png", CIVITAI))
    assert rows(found) == [("model", "Pony, v6", False)] and "Civitai resources" in found["settings"]
    assert found["next"] == ["tenshot generate --from a.png --model MODEL"]
    for odd in ("[1, {}]", "{}", '[{"type": "checkpoint"}]', "[[" * 9000):
        assert told(saved("b.png", f"a\nSteps: 3, Seed: 1, Civitai resources: {odd}"))["resources"] == []


def test_a_picture_that_says_nothing_and_one_that_is_none(told: Any, capsys: pytest.CaptureFixture):
    found = told(saved("a.png", ""))
    assert found["notes"] == ["it does not say what it was drawn with"] and "settings" not in found
    accepted(found["next"][0])
    Path("b.png").write_bytes(Path("a.png").read_bytes()[:40])
    assert main(["inspect", "b.png", "--json"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["faults"][0]["where"] == "b.png"


def test_it_is_told_in_words(capsys: pytest.CaptureFixture):
    assert main(["inspect", str(saved("a.png", WEBUI))]) == 0
    told = capsys.readouterr().out
    assert "settings.Sampler" in told and "resources.3.at hand" in told and "next " in told


@pytest.mark.parametrize("part", ["a", "a:", "a,", " [", "a 1", "[0123456789", "<lora:a>", "\\"])
def test_no_text_takes_long_or_leads_elsewhere(part: str, told: Any, sd1_lora: Path):
    Path("loras").mkdir()
    Path("loras/az.safetensors").write_bytes(sd1_lora.read_bytes())
    long = part * (200_000 // len(part))
    names = ("Model", "VAE", "Lora hashes", "TI hashes", "ControlNet 0", "Civitai resources")
    facts = {"Steps": 1, "Seed": 1, "RNG": "CPU", **dict.fromkeys(names, long), "Model hash": "6ce0161689"}
    found = told(saved("a.png", infotext.written(long, "", facts)))
    assert not any(each["at_hand"] for each in found["resources"]) and len(found["resources"]) <= 600


def test_a_name_of_the_hub_does_not_lead_out_of_its_cache(told: Any):
    found = told(saved("a.png", "a\nSteps: 1, Seed: 1, RNG: CPU, Model: x, Model source: org/name@../../../../etc"))
    assert rows(found) == [("model", "org/name@../../../../etc", False)]
