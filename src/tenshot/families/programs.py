"""What other programs call a family and its layers, and what they make of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tenshot.core.json_types import Config
from tenshot.families.keymaps import Form

#: By what ComfyUI tells that a checkpoint predicts v: by nothing, by a tensor v_pred, or by the spread of a norm.
VSign = Literal["nothing", "tensor", "norm"]


@dataclass(frozen=True)
class OriginalLayers:
    """Layers that a file of the original layout has in another form than ours: one below the other, or swapped.

    module_of: (our layer, its rows, its columns) -> the original name, the form there, and the place among those in it.
    layers: (original name, its rows, its columns) -> our layers and the form that they have there; none: unknown.
    """

    module_of: Callable[[str, int, int], tuple[str, Form, int] | None]
    layers: Callable[[str, int, int], tuple[tuple[str, ...], Form]]


@dataclass(frozen=True)
class Kohya:
    """What kohya's scripts call a family, with {} for its variant, and its denoiser's layers.

    v2: do they call it so? modules: the layers for which they have modules, as a pattern.
    blocks: how the names of modules differ from ours, by the denoiser's configuration.
    original: where they are those of the original layout, which has layers in another form.
    words: names within names that hold an underscore of their own, as a pattern.
    """

    version: str
    v2: bool = False
    modules: str = r"(down_blocks|up_blocks|mid_block)\..+"
    blocks: Callable[[Config], Mapping[str, str]] = lambda _: {}
    original: OriginalLayers | None = None
    words: str = ""


@dataclass(frozen=True)
class WebUI:
    """What AUTOMATIC1111 calls a family and makes of it.

    lists: how a LoRA's ss_base_model_version begins, where it hides all others from the family's models.
    tells_v: it sees by the weights what a checkpoint predicts. lacks: why it does not load a checkpoint as it is.
    embedders: the text encoders in its configurations: a class, and what that is made with.
    generative: such a configuration is one of Stability's generative models, not of latent diffusion.
    """

    version: str
    embedders: Sequence[tuple[str, Mapping[str, object]]] = ()
    generative: bool = False
    lists: str = ""
    tells_v: bool = False
    lacks: str = ""
