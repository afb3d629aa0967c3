"""Every family Tenshot knows. A new one is a file beside this one and a row here."""

from __future__ import annotations

from tenshot.core.json_types import Config
from tenshot.families.base import Family
from tenshot.families.components import Net
from tenshot.families.sd import SD1, SD2
from tenshot.families.sd3 import SD3
from tenshot.families.sdxl import SDXL

FAMILIES = (SD1, SD2, SDXL, SD3)
DENOISERS = tuple(dict.fromkeys(family.denoiser for family in FAMILIES))


def of_net(denoiser: Net) -> Family:
    """The family of a denoiser, or of a ControlNet, that is in memory."""
    known = {family.parts[family.denoiser].__name__ for family in FAMILIES}
    kind = next((each.__name__ for each in type(denoiser).__mro__ if each.__name__ in known), "UNet2DConditionModel")
    found = of({**denoiser.config, "_class_name": kind})
    if found is None:
        raise ValueError(f"a {type(denoiser).__name__} of no known family")
    return found


def of(config: Config) -> Family | None:
    """The family that a denoiser's configuration belongs to, or None. One that does not tell its class is a UNet."""
    kind = config.get("_class_name", "UNet2DConditionModel")
    return next((f for f in FAMILIES if f.parts[f.denoiser].__name__ == kind and f.fits(config)), None)
