"""`tenshot evaluate`: measures of the paper, for every model that is named; CLIP and DINO against transformers' own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import resolve
from tenshot.core.shipped import ASSETS
from tenshot.evaluate import dino_clip, pocket_judge, prompts
from tenshot.evaluate.evaluate import evaluate
from tenshot.evaluate.options import EvaluateOptions
from tenshot.evaluate.subject import SUBJECTS, UNSEEN

KOALA = SUBJECTS / "koala"
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = CLIPTokenizer.from_pretrained(ASSETS / "pocket" / "tokenizer")
    text = SMALL | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 77}
    vision = SMALL | {"image_size": 64, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["vit", "dinov2"])
def dino(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("dino")
    small = {name: size for name, size in SMALL.items() if name != "intermediate_size" or request.param == "vit"}
    kinds = {"vit": (ViTModel, ViTConfig), "dinov2": (Dinov2Model, Dinov2Config)}
    net, config = kinds[request.param]
    net(config(**small, image_size=224, patch_size=56)).save_pretrained(folder)
    return folder


def pictures(count: int) -> list[Image.Image]:
    made = torch.Generator().manual_seed(2)
    levels = torch.randint(0, 256, (count, 224, 224, 3), generator=made, dtype=torch.uint8)
    return [Image.fromarray(each.numpy()) for each in levels]


def pixels(images: list[Image.Image], mean: tuple[float, ...], deviation: tuple[float, ...], side: int) -> torch.Tensor:
    """As the papers' code makes them."""
    small = [np.asarray(each.resize((side, side), Image.Resampling.BICUBIC)) for each in images]
    found = (np.stack(small) / 255 - np.array(mean)) / np.array(deviation)
    return torch.tensor(found, dtype=torch.float32).permute(0, 3, 1, 2)


def test_clip_and_dino_see_what_they_see_in_transformers(clip: Path, dino: Path):
    judge, images, texts = dino_clip.load(clip, dino), pictures(3), ["a koala", "a red car in the snow"]
    net, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    own = ViTModel if "vit" in (dino / "config.json").read_text().split("model_type")[1][:12] else Dinov2Model
    other = own.from_pretrained(dino).eval()
    with torch.inference_mode():
        seen = pixels(images, dino_clip.MEANS, dino_clip.DEVIATIONS, 64)
        read = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")
        whole = net(input_ids=read.input_ids, attention_mask=read.attention_mask, pixel_values=seen)
        marks = other(pixels(images, *dino_clip.OF_IMAGENET, 224)).last_hidden_state[:, 0]
    torch.testing.assert_close(judge.read(texts), whole.text_embeds)
    assert torch.cosine_similarity(judge.look(images), whole.image_embeds).min() > 0.999  # Lanczos, not bicubic
    assert torch.cosine_similarity(judge.see(images), marks).min() > 0.9999
    assert (judge.subject_measure, judge.picture_measure, judge.prompt_measure) == ("DINO", "CLIP-I", "CLIP-T")
    alone = dino_clip.load(clip)
    assert torch.equal(alone.see(images), judge.look(images)) and alone.subject_measure == "CLIP-I"


def asked(tmp_path: Path, **given: object) -> EvaluateOptions:
    told = {"pictures": KOALA, "unseen": UNSEEN / "koala", "subject": "animal", "seeds": 1, "steps": 2}
    return resolve(EvaluateOptions, told | given)


def test_every_model_and_its_adapters_have_a_row_beside_real_pictures(tmp_path: Path):
    found = evaluate(asked(tmp_path, out=tmp_path / "all.png"), Events())
    real, drawn = found["measures"]["real"], found["measures"]["pocket"]
    assert real["recognised"] > 0.85 and real["margin"] > 0.2  # of koalas that no net has seen
    assert drawn["recognised"] == 0 and drawn["margin"] < 0  # pocket was never taught any
    assert {drawn["pres"] is None, drawn["background"] is None} == {False}
    assert Image.open(tmp_path / "all.png").height > 8 * 160


def test_one_picture_has_no_rest_to_be_held_against(tmp_path: Path):
    (tmp_path / "one").mkdir()
    shutil.copy(KOALA / "koala-1.png", tmp_path / "one")
    found = evaluate(asked(tmp_path, pictures=tmp_path / "one", unseen=None), Events())["measures"]
    assert found["real"]["subject_likeness"] is None and found["real"]["prompt_likeness"] is not None
    assert found["pocket"]["subject_likeness"] is not None


def test_clip_judges_what_the_prompts_of_a_file_ask(clip: Path, tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text("a photo of {} in the snow\n\na {} on a beach\n")
    found = evaluate(asked(tmp_path, clip=clip, prompts=file, others=SUBJECTS), Events())
    assert found["judge"] == str(clip)
    assert set(found["measures"]["pocket"]) >= {"clip_i", "clip_t", "pres", "div", "margin"}
    assert found["measures"]["pocket"]["style"] is None


def test_all_faults_at_once(clip: Path, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a photo of {}\nno hole\n")
    (tmp_path / "empty").mkdir()
    given = {"pictures": tmp_path / "empty", "prompts": tmp_path / "prompts.txt", "clip": ASSETS / "pocket" / "vae"}
    with pytest.raises(Refusal) as caught:
        evaluate(asked(tmp_path, **given), Events())
    told = [str(each) for each in caught.value.faults]
    assert len(told) == 3
    assert "--clip" in told[0] and "--pictures" in told[1] and "no {} in line 2" in told[2]


def test_holes_are_filled_with_the_name_and_with_the_class(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("a photo of {} on ice")
    (one,) = prompts.read(tmp_path / "prompts.txt", "az owl", "owl", "--prompts")
    assert (one.prompt, one.plain) == ("a photo of az owl on ice", "a photo of an owl on ice")


def test_the_judge_that_ships_says_who_it_is():
    assert pocket_judge.load().name == "the judge that ships"
