"""Every family Tenshot knows. A new one is a file beside this one and a row here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenshot.families.family import Family
from tenshot.families.sd import SD1, SD2
from tenshot.families.sdxl import SDXL

FAMILIES = (SD1, SD2, SDXL)
UNET = "UNet2DConditionModel"


def of(unet: Mapping[str, Any]) -> Family | None:
    """The family a UNet configuration belongs to, or None."""
    if unet.get("_class_name", UNET) != UNET:
        return None
    return next((family for family in FAMILIES if family.fits(unet)), None)
