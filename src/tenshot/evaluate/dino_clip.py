"""The field's own judges, where their weights are at hand: DINO (arXiv 2104.14294, 2304.07193) tells subjects apart,
CLIP (arXiv 2103.00020) holds pictures against texts. DreamBooth (arXiv 2208.12242) measured with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, CLIPModel, CLIPTokenizer

from tenshot.core import hub_names
from tenshot.core.errors import Fault, Refusal, all_or_refuse
from tenshot.evaluate.judge import Images, Judge, in_parts
from tenshot.io import text_files
from tenshot.io.images import as_tensor, fit_picture

CLIP = ("clip",)
DINO = ("vit", "dinov2", "dinov2_with_registers")
MEANS, DEVIATIONS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's pixels, 0 to 1
OF_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # DINO's
SIDE = 224  # pixels that DINO sees, whatever its positions reach to


class DinoClipJudge(Judge):
    """With CLIP alone, it tells subjects apart, too."""

    def __init__(self, clip: CLIPModel, tokenizer: CLIPTokenizer, dino: nn.Module | None, name: str) -> None:
        self.clip, self.tokenizer, self.dino, self.name = clip.eval(), tokenizer, dino and dino.eval(), name
        self.subject_measure, self.picture_measure = ("DINO", "CLIP-I") if dino else ("CLIP-I", "")
        self.prompt_measure = "CLIP-T"

    def see(self, images: Images) -> torch.Tensor:
        dino = self.dino
        if dino is None:
            return self.look(images)
        return _features(images, SIDE, OF_IMAGENET, lambda pixels: dino(pixel_values=pixels).last_hidden_state[:, 0])

    def look(self, images: Images) -> torch.Tensor:
        clip, side = self.clip, self.clip.config.vision_config.image_size
        return _features(
            images,
            side,
            (MEANS, DEVIATIONS),
            lambda pixels: clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output),
        )

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> torch.Tensor:
        length = self.clip.config.text_config.max_position_embeddings
        read = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        states = self.clip.text_model(input_ids=read.input_ids, attention_mask=read.attention_mask).pooler_output
        return F.normalize(self.clip.text_projection(states), dim=-1)


@torch.inference_mode()
def _features(
    images: Images,
    side: int,
    spread: tuple[Sequence[float], Sequence[float]],
    net: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    mean, deviation = (torch.tensor(each)[:, None, None] for each in spread)
    found = []
    for part in in_parts(images, 16):
        pixels = torch.stack([(as_tensor(fit_picture(image, side)) + 1) / 2 for image in part])
        found.append(F.normalize(net((pixels - mean) / deviation), dim=-1))
    return torch.cat(found)


def load(clip: Path, dino: Path | None = None) -> DinoClipJudge:
    """clip, dino: folders of transformers. Raises Refusal with what is wrong in both."""
    all_or_refuse(partial(examine, clip, CLIP, "--clip"), *([partial(examine, dino, DINO, "--dino")] if dino else []))
    names = [hub_names.spelled(str(each)) for each in (clip, dino) if each]
    net, tokenizer, other, *_ = all_or_refuse(
        lambda: _read(lambda: CLIPModel.from_pretrained(clip, use_safetensors=True), clip),
        lambda: _read(lambda: CLIPTokenizer.from_pretrained(clip), clip),
        lambda: dino and _read(lambda: AutoModel.from_pretrained(dino, use_safetensors=True), dino),
    )
    return DinoClipJudge(net, tokenizer, other, " and ".join(names))


def examine(folder: Path, kinds: Sequence[str], option: str) -> None:
    """Raises Refusal where config.json tells of another net."""
    found = text_files.read_object(folder / "config.json").get("model_type")
    if found not in kinds:
        fits = f"a net of kind {' or '.join(kinds)}, in transformers' layout"
        do = "such as openai/clip-vit-large-patch14" if kinds is CLIP else "such as facebook/dinov2-small"
        raise Refusal(Fault(f"{option} {folder}", f"config.json: model_type {found!r}", fits, do))


def _read(opened: Callable[[], object], folder: Path) -> object:
    try:
        return opened()
    except Exception as error:  # a library's loader; what files hold can be wrong in any way
        raise Refusal(_unread(folder, error)) from None


def _unread(folder: Path, error: Exception) -> Fault:
    told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return Fault(str(folder), told, "config.json, model.safetensors, and a CLIP's tokenizer", "fetch it again")
