"""ControlNets by request: sd-webui-controlnet's units as options of what is drawn, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tenshot.core.errors import Fault, Refusal, faults_of, refuse_if
from tenshot.generate import controlnets
from tenshot.generate.controlnet_options import MOST
from tenshot.io.images import open_picture
from tenshot.serve.requests import Desk

SCRIPT = "controlnet"  #: what units come under in alwayson_scripts, in whatever case
UNITS = 3  # of one request
WIDEST = 4096  # pixels of a map
USUAL = (100, 200)  # thresholds of canny
MODES = {title: name for name, title in controlnets.TITLES.items()}
RESIZES = {controlnets.RESIZE_TITLES[name]: name for name in ("stretch", "crop", "fill")}  # as numbers have them
RESIZES |= {"Scale to Fit (Inner Fit)": "crop", "Envelope (Outer Fit)": "fill"}  # older clients
#: Fields that mean something there, and their values that ask for nothing which is not done here.
IDLE: dict[str, tuple[object, ...]] = {
    "mask": (None, ""),
    "mask_image": (None, ""),
    "effective_region_mask": (None, ""),
    "advanced_weighting": (None, []),
    "ipadapter_input": (None, []),
    "batch_images": (None, "", []),
    "batch_mask_dir": (None, ""),
    "input_mode": (None, "simple"),
    "union_control_type": (None, "Unknown"),
    "hr_option": ("Both", "HiResFixOption.BOTH", None, 0),
}

Share = Annotated[float, Field(ge=0, le=1)]


class Unit(BaseModel):
    """One ControlNet of a request."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, protected_namespaces=())

    enabled: bool = True
    module: str | None = "none"
    model: str | None = None
    weight: Annotated[float, Field(ge=0, le=MOST)] = 1.0
    image: Any = None
    input_image: Any = None
    resize_mode: str | int = "Crop and Resize"
    threshold_a: float | None = None
    threshold_b: float | None = None
    guidance_start: Share = 0.0
    guidance_end: Share = 1.0
    control_mode: str | int = "Balanced"
    save_detected_map: bool = True

    @property
    def preprocessor(self) -> str:
        return (self.module or "none").lower()

    @property
    def thresholds(self) -> tuple[int, int]:
        """Of canny: OpenCV takes the smaller one for the lower."""
        given = (self.threshold_a, self.threshold_b)
        pair = [round(own) if own and 1 <= own <= 255 else usual for own, usual in zip(given, USUAL, strict=True)]
        return min(pair), max(pair)

    @property
    def picture(self) -> object:
        """In base64, without the mask that may come with it."""
        given = self.image or self.input_image
        given = given[0] if isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 1 else given
        if isinstance(given, Mapping) and not given.get("mask"):
            return given.get("image")
        return given


def parsed(args: object) -> list[Unit]:
    """Those that are to work. Raises Refusal."""
    rows = args if isinstance(args, list) else [args]
    units: list[Unit] = []
    faults: list[Fault] = []
    for number, row in enumerate(rows):
        if isinstance(row, Mapping):
            try:
                units.append(Unit.model_validate(row))
            except ValidationError as error:
                faults += [
                    Fault(f"ControlNet {number}: {'.'.join(map(str, each['loc']))}"[:200], each["msg"])
                    for each in error.errors()
                ]
        elif row not in (None, False):
            faults.append(Fault(f"ControlNet {number}", "no unit", "an object with image, model, module", "send one"))
    refuse_if(faults)
    working = [each for each in units if each.enabled]
    if len(working) > UNITS:
        raise Refusal(Fault("ControlNet", f"{len(working)} units", f"{UNITS} at most", "ask for fewer"))
    return working


def controlled(
    units: Sequence[Unit], desk: Desk, folder: Path, begun: Path | None
) -> tuple[dict[str, object], list[int]]:
    """Options of what is drawn, and the numbers of the units whose maps come with the pictures.

    folder: for their pictures. begun: the picture that is drawn on. Raises Refusal.
    """
    faults = [fault for number, each in enumerate(units) for fault in _faults(number, each)]
    edges = {each.thresholds for each in units if each.preprocessor == "canny"}
    if len(edges) > 1:
        faults.append(Fault("ControlNet", "canny with several pairs of thresholds", "one pair", "give all the same"))
    places: list[Path] = []
    images: list[Path] = []
    for number, each in enumerate(units):
        where = f"ControlNet {number}"
        if not each.model or each.model == "None":
            faults.append(Fault(f"{where}: model", "none is named", *_served(desk)))
        else:
            faults += faults_of(partial(_add, places, partial(desk.library.controlnet, each.model)))
        faults += faults_of(partial(_add, images, partial(_image, number, each, desk, folder, begun)))
    refuse_if(faults)
    options: dict[str, object] = {
        "controlnet": [f"{place}={_behind(unit)}" for place, unit in zip(places, units, strict=True)],
        "control_image": images,
        "control_preprocessor": [each.preprocessor for each in units],
        "control_mode": [_named(each.control_mode, MODES) for each in units],
        "control_resize": [_named(each.resize_mode, RESIZES) for each in units],
    }
    if edges:
        options |= dict(zip(("canny_low", "canny_high"), edges.pop(), strict=True))
    return (options, [number for number, each in enumerate(units) if each.save_detected_map])


def _add(places: list[Path], found: Callable[[], Path]) -> None:
    places.append(found())


def _behind(unit: Unit) -> str:
    weight, start, end = (f"{Decimal(str(each)):f}" for each in (unit.weight, unit.guidance_start, unit.guidance_end))
    return f"{weight}@{start}-{end}"


def _served(desk: Desk) -> tuple[str, str]:
    return ", ".join(sorted(desk.library.controlnets())[:9]) or "there is none at all", "name one of these"


def _named(given: str | int, known: Mapping[str, str]) -> str | None:
    """Whatever the case, or as a number of the first three."""
    if isinstance(given, int) and 0 <= given < 3:
        given = [*known][given]
    names = {name.lower(): value for name, value in known.items()}
    return names.get(str(given).lower())


def _faults(number: int, unit: Unit) -> Iterator[Fault]:
    where = f"ControlNet {number}"
    if unit.preprocessor not in modules():
        fits, do = ", ".join(modules()), "make the map yourself, and send it with module none"
        yield Fault(f"{where}: module", f"{unit.module!r:.100}: this server has no such preprocessor", fits, do)
    for name, given, known in (
        ("control_mode", unit.control_mode, MODES),
        ("resize_mode", unit.resize_mode, RESIZES),
    ):
        if _named(given, known) is None:
            yield Fault(f"{where}: {name}", f"{given!r:.100} is not known here", ", ".join(known), "name one of these")
    told = unit.model_extra or {}
    for name, nothing in IDLE.items():
        if told.get(name) not in nothing:
            yield Fault(f"{where}: {name}", "this server does not do that", "nothing", "leave it out")


def _image(number: int, unit: Unit, desk: Desk, folder: Path, begun: Path | None) -> Path:
    where = f"ControlNet {number}: image"
    given = unit.picture
    if not given and begun:
        return begun
    if not given or not isinstance(given, str):
        found = "none" if not given else "several pictures, or one with a mask"
        raise Refusal(Fault(where, found, "one picture in base64, without a mask", "send it"))
    return desk.decoded(given, f"control_image {number}", folder)


def modules() -> list[str]:
    return ["none", "canny"] if find_spec("cv2") else ["none"]


def details() -> dict[str, object]:
    """Of the modules, what can be set."""

    def slider(name: str, value: int, least: int, most: int) -> dict[str, object]:
        return {"name": name, "value": value, "min": least, "max": most, "step": 1}

    low, high = USUAL
    edges = [slider("Resolution", 512, 64, 2048), slider("Low Threshold", low, 1, 255)]
    known = {"none": [], "canny": [*edges, slider("High Threshold", high, 1, 255)]}
    return {name: {"model_free": False, "sliders": known[name]} for name in modules()}


def types(names: Sequence[str]) -> dict[str, object]:
    """names: of ControlNets."""
    found: dict[str, object] = {"All": _type(names, "none")}
    if "canny" in modules():
        found["Canny"] = _type([name for name in names if "canny" in name.lower()], "canny")
    return found


def _type(names: Sequence[str], module: str) -> dict[str, object]:
    default = names[0] if names and module != "none" else "None"
    lists = {"module_list": modules() if module == "none" else ["none", module], "model_list": ["None", *names]}
    return {**lists, "default_option": module, "default_model": default}


def detected(path: Path, module: str, side: int, thresholds: tuple[int, int]) -> Image.Image:
    """The map of a picture whose shorter side becomes `side` pixels. Raises Refusal."""
    image = open_picture(path)
    if module == "none":
        return image
    scale = side / min(image.size)
    width, height = (max(1, round(each * scale)) for each in image.size)
    if max(width, height) > WIDEST:
        found = f"{width}x{height} pixels would be looked at"
        raise Refusal(Fault("controlnet_processor_res", found, f"sides up to {WIDEST}", "ask for less"))
    return controlnets.canny(image.resize((width, height), Image.Resampling.LANCZOS), *thresholds)
