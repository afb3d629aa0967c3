"""Nets that enlarge pictures, ESRGAN and its kin: which one a file holds, and how it is run, is spandrel's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tenshot.core.errors import Fault, Refusal
from tenshot.core.size import Size
from tenshot.io import tensor_files
from tenshot.io.images import as_image, as_tensor

FITS = "a file of an ESRGAN, Real-ESRGAN, SwinIR or another net that spandrel knows, for colours"
INSTALL = 'pip install "tenshot[upscalers]"'
WRAPPED = ("params_ema.", "params-ema.", "params.", "model_state_dict.", "net.")  # what training leaves around a net
TIMES = 3  # that a picture goes through at most, as in WebUI
TILE, OVERLAP, CUT = 384, 64, 16  # pixels: of a tile, shared with the next one, and of those not looked at on each side


@dataclass(frozen=True)
class Upscaler:
    """net: of spandrel, which takes and gives [1, 3, height, width] in 0 to 1."""

    net: Any

    def __call__(self, image: Image.Image, size: Size) -> Image.Image:
        """A picture of `size`: through the net until it is as large, and from there by Lanczos, as in WebUI."""
        for _ in range(TIMES):
            image = as_image(self._tiled((as_tensor(image)[None] + 1) / 2)[0] * 2 - 1)
            if self.net.scale == 1 or (image.width >= size.width and image.height >= size.height):
                break
        return image if image.size == size.pillow else image.resize(size.pillow, Image.Resampling.LANCZOS)

    @torch.no_grad()
    def _tiled(self, pixels: torch.Tensor) -> torch.Tensor:
        """[1, 3, height, width], tile by tile where it is large, each fading into the next; on the CPU."""
        height, width = pixels.shape[2:]
        if max(height, width) <= TILE or self.net.tiling.name == "INTERNAL":
            whole: torch.Tensor = self.net(pixels.to(self.net.device)).cpu()
            return whole
        scale = self.net.scale
        drawn = torch.zeros(1, 3, height * scale, width * scale)
        weight = torch.zeros(1, 1, height * scale, width * scale)
        for top in _starts(height):
            for left in _starts(width):
                tile = self.net(pixels[:, :, top : top + TILE, left : left + TILE].to(self.net.device)).cpu()
                share = _share(top, height, scale)[:, None] * _share(left, width, scale)
                rows, columns = (slice(at * scale, (at + TILE) * scale) for at in (top, left))
                drawn[:, :, rows, columns] += tile * share
                weight[:, :, rows, columns] += share
        return drawn / weight


def _starts(side: int) -> list[int]:
    """Where tiles begin; the last one ends with the picture."""
    return [*range(0, side - TILE, TILE - OVERLAP), side - TILE] if side > TILE else [0]


def _share(start: int, side: int, scale: int) -> torch.Tensor:
    """How much each row of a tile counts: 0 at a seam, where it sees too little, and rising from there."""
    at = torch.arange(min(TILE, side) * scale) + 0.5
    before = (at if start else at + side * scale) - CUT * scale
    behind = (at.flip(0) if start + TILE < side else at.flip(0) + side * scale) - CUT * scale
    return (torch.minimum(before, behind) / ((OVERLAP - 2 * CUT) * scale)).clamp(0, 1)


def read(place: Path) -> Upscaler:
    """The net in a file, on the CPU; the same again where the file is the same. Raises Refusal."""
    source = tensor_files.opened(place)
    if not find_spec("spandrel"):
        found = f"{place} is a net, and spandrel, which runs such nets, is not installed"
        raise Refusal(Fault("--hires_upscaler", found, "spandrel, or the name of an upscaler", INSTALL))
    about = place.stat()
    return _read(source.place, about.st_size, about.st_mtime_ns)


@lru_cache(2)
def _read(place: Path, *stamp: int) -> Upscaler:
    tensors = _bare({name: lazy.read() for name, lazy in tensor_files.opened(place).tensors.items()})
    numbers = (int(part) for name in tensors for part in name.split(".") if part.isdecimal())
    if max(numbers, default=0) > len(tensors):  # spandrel makes as many layers as the highest number says
        found = "layers are missing: one has a number that is higher than there are tensors"
        raise Refusal(Fault(str(place), found, FITS, tensor_files.AGAIN))
    spandrel = _spandrel()
    try:
        net = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(tensors))
    except spandrel.UnsupportedModelError:
        raise Refusal(Fault(str(place), "no net that is known to enlarge pictures", FITS, "name another one")) from None
    except Exception as error:  # nets of each architecture are read in a way of their own
        first = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise Refusal(Fault(str(place), f"no whole net: {first}", FITS, tensor_files.AGAIN)) from None
    channels = (net.input_channels, net.output_channels)
    if not isinstance(net, spandrel.ImageModelDescriptor) or channels != (3, 3):
        found = f"a net of {net.architecture.name}, which takes {channels[0]} channels and gives {channels[1]}"
        raise Refusal(Fault(str(place), found, FITS, "name another one"))
    return Upscaler(net.float().eval())


def _spandrel() -> Any:
    try:
        import spandrel
    except Exception as error:  # torchvision, which it wants, fails in its own way beside another build of torch
        first = str(error).strip().partition("\n")[0][:200]
        fits = "spandrel, torch and torchvision that go together"
        found = f"spandrel, which runs such nets, cannot be imported: {first}"
        raise Refusal(Fault("--hires_upscaler", found, fits, f"{INSTALL}, all from one index")) from None
    return spandrel


def _bare(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A net's tensors alone; of several in a file, the running average."""
    root = next((each for each in WRAPPED if any(name.startswith(each) for name in tensors)), "")
    return {name.removeprefix(root): tensor for name, tensor in tensors.items() if name.startswith(root)}
