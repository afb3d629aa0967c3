"""LoRAs and learned words in every form people have; diffusers reads what we write, and the pictures are the same."""

from __future__ import annotations

import pickle
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

import tenshot
from tenshot.adapters import embedding, lora, lora_keys, parsing
from tenshot.convert.convert import convert
from tenshot.convert.options import ConvertOptions
from tenshot.core.errors import Refusal
from tenshot.core.events import Events
from tenshot.core.options import gather
from tenshot.families import keymaps
from tenshot.families.sdxl import FULL
from tenshot.io import tensor_files
from tenshot.model import model


def run(*words: object) -> dict:
    return convert(gather(ConvertOptions, [str(word) for word in words]), Events())


def a_lora(folder: Path, file: Path, seed: int = 0, rank: int = 3, alpha: float = 5.0, layers: str = "all") -> Path:
    """A random LoRA for every part of the model in `folder`, as our training writes it."""
    file.write_bytes(_lora(folder, seed, rank, alpha, layers))
    torch.manual_seed(seed)  # made or found, what is thrown next is the same
    return file


@cache
def _lora(folder: Path, seed: int, rank: int, alpha: float, layers: str) -> bytes:
    """Of a model that stays as it is: making it takes longer than most of what is done with it."""
    opened = model.load(str(folder))
    torch.manual_seed(seed)
    parts = ("unet", *opened.family.encoders)
    settings = {
        part: {
            "r": rank,
            "lora_alpha": alpha,
            "target_modules": opened.family.targets(part, layers),
            "init_lora_weights": False,
        }
        for part in parts
    }
    lora.attach(opened, lora.new(settings))
    told = {part: {k: v for k, v in each.items() if k in lora.SETTINGS} for part, each in settings.items()}
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "lora.safetensors"
        lora.write(file, lora.current(opened, told), opened.parts, opened.family)
        return file.read_bytes()


def without_numbers(file: Path) -> Path:
    """The same file with one NaN in it."""
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, file)
    return file


def answer(pipe: StableDiffusionPipeline | StableDiffusionXLPipeline) -> torch.Tensor:
    """What the UNet and the text encoders of a pipeline say."""
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        return torch.cat([pipe.text_encoder(ids)[0].flatten(), *(p.flatten() for p in _unet(pipe))])


def _unet(pipe):
    torch.manual_seed(1)
    wide = pipe.unet.config.cross_attention_dim
    side = pipe.unet.config.sample_size
    more = {}
    if pipe.unet.config.addition_embed_type:
        more = {"added_cond_kwargs": {"text_embeds": torch.randn(1, 32), "time_ids": torch.ones(1, 6)}}
    yield pipe.unet(torch.randn(1, 4, side, side), 500, torch.randn(1, 7, wide), **more).sample


@pytest.fixture(params=("sd1", "sd2_v", "sdxl"))
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def pipeline(folder: Path):
    kind = StableDiffusionXLPipeline if folder.name == "sdxl" else StableDiffusionPipeline
    return kind.from_pretrained(folder)


def same(one: Path, other: Path, unet: dict | None = None) -> None:
    first, second = (parsing.low_rank(tensor_files.opened(path), unet) for path in (one, other))
    assert first.keys() == second.keys()
    for layer, each in first.items():
        assert torch.equal(each.down, second[layer].down) and torch.equal(each.up, second[layer].up)
        assert each.alpha == pytest.approx(second[layer].alpha)


def test_to_kohya_and_back(folder: Path, tmp_path: Path):
    ours = a_lora(folder, tmp_path / "ours.safetensors")
    found = run(ours, tmp_path / "kohya.safetensors", "--config", folder)
    assert (found["form"], found["rank"], found["alpha"]) == ("kohya", 3, 5.0)
    run(tmp_path / "kohya.safetensors", tmp_path / "back.safetensors", "--config", folder)
    unet = dict(model.load(str(folder))["unet"].config)
    same(ours, tmp_path / "kohya.safetensors", unet)
    same(ours, tmp_path / "back.safetensors", unet)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("sd1", "diffusers"),
        ("sd2_v", "kohya"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("sd1", "kohya"), ("sd2_v", "diffusers"))),
    ],
)
def test_diffusers_reads_it_with_the_same_effect(name: str, form: str, tmp_path: Path, request: pytest.FixtureRequest):
    folder = request.getfixturevalue(name)
    ours = a_lora(folder, tmp_path / "ours.safetensors")
    run(ours, tmp_path / "kohya.safetensors", "--config", folder)
    run(tmp_path / "kohya.safetensors", tmp_path / "diffusers.safetensors", "--config", folder)
    opened = tenshot.load(folder)
    opened.set_loras({ours: 1})
    theirs, plain, here = pipeline(folder), pipeline(folder), pipeline(folder)
    here.unet, here.text_encoder = opened["unet"], opened["text_encoder"]
    theirs.load_lora_weights(str(tmp_path), weight_name=f"{form}.safetensors")
    assert not torch.allclose(answer(plain), answer(here), atol=1e-3)
    assert torch.allclose(answer(theirs), answer(here), atol=1e-5)


def test_kohyas_names_are_as_user_interfaces_know_them(sdxl: Path, sd1: Path, tmp_path: Path):
    run(a_lora(sd1, tmp_path / "one.safetensors"), tmp_path / "sd1.safetensors", "--config", sd1)
    found = load_file(tmp_path / "sd1.safetensors")
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert found[f"{stem}.lora_down.weight"].shape == (3, 32)
    assert found[f"{stem}.alpha"].shape == ()
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in found
    assert found["lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight"].shape == (3, 32, 3, 3)
    assert found["lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight"].shape == (32, 3, 1, 1)
    run(a_lora(sdxl, tmp_path / "two.safetensors"), tmp_path / "sdxl.safetensors", "--config", sdxl)
    found = load_file(tmp_path / "sdxl.safetensors")
    assert "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q.lora_down.weight" in found
    assert "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha" in found
    assert "lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha" in found
    about = tensor_files.opened(tmp_path / "sdxl.safetensors").metadata
    assert about["ss_base_model_version"] == "sdxl_base_v1-0"
    assert about["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_every_full_size_name_comes_back():
    originals = keymaps.unet_modules(FULL)
    for layer in originals:
        theirs = lora_keys.kohya("unet", layer, originals)
        assert lora_keys.parse(f"{theirs}.alpha") == ("unet", layer, "alpha")
        plain = lora_keys.kohya("unet", layer, None)
        assert lora_keys.parse(f"{plain}.alpha") == ("unet", layer, "alpha")


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight", "to_q down"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora.up.weight", "to_out.0 up"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight", "to_q down"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.default.weight", "to_q down"),
        ("base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight", "to_q up"),
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_down.weight", "to_q down"),
    ],
)
def test_names_of_every_age_are_known(written: str, place: str, sd1: Path):
    layer, kind = place.split()
    unet = {**model.load(str(sd1))["unet"].config}
    start = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    assert lora_keys.parse(written, unet) == ("unet", f"{start}.{layer}", kind)


def test_the_guides_bin_of_2023(sd1: Path, tmp_path: Path):
    start = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor"
    old = {
        f"{start}.to_{w}_lora.{d}.weight": torch.randn(s)
        for w in ("q", "out")
        for d, s in (("down", (4, 320)), ("up", (320, 4)))
    }
    text = start.replace("attn1", "attn2")
    old |= {f"{text}.to_k_lora.{d}.weight": torch.randn(s) for d, s in (("down", (4, 768)), ("up", (320, 4)))}
    torch.save(old, tmp_path / "pytorch_lora_weights.bin")
    found = run("--file", tmp_path / "pytorch_lora_weights.bin")
    kohya = load_file(found["written"])
    assert len(kohya) == 9 and found["rank"] == 4
    assert torch.equal(
        kohya["lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_up.weight"],
        old[f"{start}.to_out_lora.up.weight"],
    )


def test_a_torn_lora_is_refused(tmp_path: Path):
    save_file({"lora_unet_conv_in.lora_down.weight": torch.zeros(2, 4)}, tmp_path / "torn.safetensors")
    with pytest.raises(Refusal, match="belong together"):
        run(tmp_path / "torn.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


WORD = torch.arange(32.0).reshape(2, 16)
LAYOUTS = {
    "a1111.pt": {"string_to_token": {"*": 265}, "string_to_param": {"*": WORD}, "name": "az", "step": 3},
    "parameters.pt": {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(WORD)}), "name": "az"},
    "diffusers.bin": {"az": WORD},
}


@pytest.mark.parametrize(
    ("name", "zipped"), [(name, True) for name in LAYOUTS] + [("a1111.pt", False), ("diffusers.bin", False)]
)
def test_a_learned_word_in_every_layout(name: str, zipped: bool, tmp_path: Path):
    file = tmp_path / name
    torch.save(LAYOUTS[name], file, _use_new_zipfile_serialization=zipped)
    assert embedding.read(file)[0] == "az"
    found = run(file, tmp_path / "az.safetensors")
    assert found["vectors"] == 2
    assert torch.equal(load_file(tmp_path / "az.safetensors")["az"], WORD)
    run(tmp_path / "az.safetensors", tmp_path / "again.pt")
    assert (tmp_path / "again.pt").read_bytes()[:2] == b"\x80\x02"
    assert torch.equal(embedding.read(tmp_path / "again.pt")[1]["text_encoder"], WORD)


def test_diffusers_reads_the_learned_word(sd1: Path, tmp_path: Path):
    torch.save({"az": WORD / 32}, tmp_path / "az.bin")
    run(tmp_path / "az.bin", tmp_path / "az.safetensors")
    pipe = pipeline(sd1)
    pipe.load_textual_inversion(str(tmp_path / "az.safetensors"))
    table = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[pipe.tokenizer.convert_tokens_to_ids("az_1")], WORD[1] / 32)


def test_an_autoencoder_there_and_back(sd1: Path, tmp_path: Path):
    run(sd1 / "vae", tmp_path / "vae.safetensors")
    assert "encoder.down.0.block.0.norm1.weight" in load_file(tmp_path / "vae.safetensors")
    run(tmp_path / "vae.safetensors", tmp_path / "back")
    one, other = (AutoencoderKL.from_pretrained(place) for place in (sd1 / "vae", tmp_path / "back"))
    assert one.config.scaling_factor == other.config.scaling_factor
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    theirs = AutoencoderKL.from_single_file(
        str(tmp_path / "vae.safetensors"), config=str(sd1 / "vae"), local_files_only=True
    )
    assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def test_a_controlnet_there_and_back(sd1: Path, tmp_path: Path):
    net = ControlNetModel.from_unet(model.load(str(sd1))["unet"], conditioning_embedding_out_channels=(8, 16))
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter)
    net.save_pretrained(tmp_path / "net")
    run(tmp_path / "net", tmp_path / "net.safetensors")
    found = load_file(tmp_path / "net.safetensors")
    assert {"control_model.input_hint_block.0.weight", "control_model.zero_convs.0.0.weight"} <= found.keys()
    run(tmp_path / "net.safetensors", tmp_path / "back")
    back = ControlNetModel.from_pretrained(tmp_path / "back")
    assert back.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in net.state_dict().items())


def test_full_size_controlnets_names_are_diffusers_own(tmp_path: Path):
    """Against diffusers' own table, by the names alone."""
    from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

    from tenshot.families import conversion

    with torch.device("meta"):
        config = dict(ControlNetModel().config)
    wanted = conversion.skeleton(ControlNetModel, config)
    theirs = {line.theirs: torch.empty(0) for line in keymaps.controlnet(config, wanted)}
    mapped = convert_controlnet_checkpoint(dict(theirs), config)
    assert mapped.keys() == wanted.keys()


def test_pickles_that_call_are_refused(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (print, ("called",))

    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"w": Evil()}, protocol=2))
    torch.save({"w": Evil()}, tmp_path / "evil.pt")
    for name in ("evil.ckpt", "evil.pt"):
        with pytest.raises(Refusal, match="would call"):
            run(tmp_path / name, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
