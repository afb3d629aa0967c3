"""Files of the original layout, and model folders: every tensor of the one is accounted for in the other.

A translation is a table of lines, one for each tensor, made from the configurations of the parts. Nothing is read while
it is made: tensors are read one after the other when the result is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import diffusers
import torch

from tenshot.core.errors import Fault, Refusal, refuse_if, some
from tenshot.core.json_types import Config
from tenshot.families import config_from_shapes, keymaps, mmdit, shapes, text_model, unused_tensors
from tenshot.families.base import Family
from tenshot.families.components import Net
from tenshot.families.keymaps import Line
from tenshot.io.tensor_files import Lazy
from tenshot.io.tensors import rounded

OTHER = "--config FOLDER tells another architecture"
Tensors = Mapping[str, Lazy]
Shapes = Mapping[str, tuple[int, ...]]
Configs = Mapping[str, Config]


@dataclass(frozen=True)
class Dialect:
    """lines: of a part's (configuration, names). config: what shapes say. landmark: a name that no other has.

    today: landmark and config of the same net under diffusers' own names, where it comes as a file of its own.
    silent: the tensors of ours that the layout does not have -> what they have to be, by the configuration.
    """

    lines: Callable[[Config, Iterable[str]], list[Line]]
    config: Callable[[Shapes], dict[str, object]]
    landmark: str
    today: tuple[str, Callable[[Shapes], dict[str, object]]] | None = None
    silent: Mapping[str, Callable[[Config], torch.Tensor]] = field(default_factory=dict)


_CLIP = f"transformer.{text_model.PREFIX}embeddings.token_embedding.weight"


def _unprojected(config: Config) -> torch.Tensor:
    """Stability's code pools CLIP-L without its projection, and so do its readers."""
    return torch.eye(config["projection_dim"], config["hidden_size"])


DIALECTS = {
    "unet": Dialect(
        keymaps.unet,
        config_from_shapes.unet,
        "input_blocks.0.0.weight",
        ("up_blocks.0.resnets.0.norm1.weight", config_from_shapes.unet_today),
    ),
    "vae": Dialect(keymaps.vae, config_from_shapes.vae, "encoder.conv_in.weight"),
    "clip": Dialect(
        lambda _, names: keymaps.clip(names),
        config_from_shapes.clip,
        _CLIP,
    ),
    "clip_l": Dialect(
        lambda _, names: [line for line in keymaps.clip(names) if line.ours != ("text_projection.weight",)],
        config_from_shapes.clip,
        _CLIP,
        silent={"text_projection.weight": _unprojected},
    ),
    "clip_g": Dialect(lambda _, names: keymaps.clip(names), config_from_shapes.clip_g, _CLIP),
    "t5": Dialect(lambda _, names: keymaps.t5(names), config_from_shapes.t5, "transformer.shared.weight"),
    "mmdit": Dialect(
        mmdit.lines,
        mmdit.config,
        "joint_blocks.0.x_block.attn.qkv.weight",
        ("pos_embed.pos_embed", mmdit.config_today),
    ),
    "open_clip": Dialect(
        lambda _, names: keymaps.open_clip(names), config_from_shapes.open_clip, "model.token_embedding.weight"
    ),
}

#: Why a tensor of an original file has no place in a model folder. Whatever is not in here must not be left over.
REASONS = {
    r"model_ema\.(decay|num_updates)": "how the running average was kept",
    r"model_ema\.": "the running average; --ema takes it instead of the weights",
    r".*position_ids": "counts up from 0; made anew",
    r".*\.logit_scale": "needed to train CLIP, not to read text",
    r"cond_stage_model\.model\.text_projection": "Stable Diffusion 2 does not project its text",
    r"cond_stage_model\.model\.transformer\.resblocks\.": "behind the layer whose states Stable Diffusion 2 reads",
    r".*text_model\.encoder\.layers\.": "behind the last layer",
    r"text_encoders\.clip_l\.(transformer\.)?text_projection.*": "Stable Diffusion 3 pools CLIP-L without a projection",
    r"text_encoders\.t5xxl\.transformer\.encoder\.embed_tokens\.weight": "the same as its shared.weight",
    r"(cond_stage_model|conditioner\.embedders\.1)\.model\.(visual|attn_mask)": "CLIP's picture tower",
    r"conditioner\.embedders\.0\.transformer\.text_projection": "only the second text encoder projects",
    r"(sqrt_|log_|posterior_)?(one_minus_)?(betas|alphas|recip|variance|mean|log|sqrt).*": "follows from the schedule",
    r"(lvlb_weights|logvar|scale_factor|model\.(sqrt|alphas|betas)|denoiser\.sigmas).*": "follows from the schedule",
    r"(first_stage_model\.)?loss\.": "a loss for training the autoencoder",
    r"first_stage_model\.model_ema\.": "the autoencoder's running average",
    r"v_pred|ztsnr|edm_.*": "a sign of what the UNet answers",
    r".*\.(scale_input|input_scale)": "for programs that calculate with eight-bit numbers",
    r"(.*\.)?scaled_fp8": "a sign that weights have scales, with which they are multiplied now",
    r"(optimizer|lr_scheduler|callbacks|loops)\b.*": "the state of a training",
    r"embedding_manager\.|control_model\.": "another model beside this one",
}


@dataclass(frozen=True)
class Ledger:
    """What became of every tensor of a source. used: how many have their place in the result; left: name -> why not."""

    used: int = 0
    left: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, object]:
        """For a report: how many were left for each reason."""
        reasons = list(self.left.values())
        left = [{"reason": reason, "tensors": reasons.count(reason)} for reason in dict.fromkeys(reasons)]
        return {"used": self.used, "left_over": left}


def recognised(tensors: Tensors, families: Iterable[Family], besides: Collection[str] = ()) -> Family | None:
    """The family of an original checkpoint: the one whose every part is there, but for those `besides`.

    It is the family without such parts as it can do without, unless they are among those `besides`.
    """
    for family in families:
        marks = landmarks(family)
        missing = {part for part, mark in marks.items() if mark not in tensors}
        if missing.difference(besides) <= family.optional:
            return family.without(*missing.difference(besides) & family.optional)
    return None


def landmarks(family: Family) -> dict[str, str]:
    """Part -> the tensor by which a file is known to have it."""
    return {part: root + DIALECTS[dialect].landmark for part, (root, dialect) in family.original.items()}


def configured(family: Family, tensors: Tensors, told: Configs) -> dict[str, dict[str, Any]]:
    """Every net's configuration: from the shapes, and over it what is `told`."""
    found = {}
    for part, (root, dialect) in family.original.items():
        inner = {name.removeprefix(root): lazy.shape for name, lazy in tensors.items() if name.startswith(root)}
        found[part] = by_shapes(DIALECTS[dialect].config, inner, f"{family.title}: {part}") | dict(told.get(part, {}))
    if "text_encoder" not in told and family.original.get("text_encoder", ("", ""))[1] == "open_clip":
        layers = found["text_encoder"]["num_hidden_layers"]
        found["text_encoder"]["num_hidden_layers"] = 23 if layers == 24 else layers  # it reads the last but one
    if "vae" in found and "vae" not in told:
        found["vae"] |= family.latents
    if family.denoiser not in told:
        found[family.denoiser]["sample_size"] = family.resolution // 8
    return found


def by_shapes(config: Callable[[Shapes], dict[str, object]], found: Shapes, what: str) -> dict[str, Any]:
    """What `config` reads off the shapes. Raises Refusal where they are not those of a whole net."""
    try:
        return config(found)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else "its tensors have shapes that mean nothing"
        raise Refusal(Fault(what, told, "a whole file", "copy or download it again")) from None


def skeleton(kind: type[Net], config: Config) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a net by its configuration, without `text_model.`; no memory is spent on it.

    Raises Refusal where the configuration, which may be read off a strange file's shapes, makes no net.
    """
    try:
        with torch.device("meta"):
            net = (
                kind.from_config(dict(config))
                if issubclass(kind, diffusers.ModelMixin)
                else kind(kind.config_class(**config))
            )
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        found = f"the shapes alone make none: {str(error).partition(chr(10))[0]}"
        raise Refusal(Fault(kind.__name__, found, "a released architecture", OTHER)) from None
    return {text_model.bare(name): tuple(tensor.shape) for name, tensor in untied(net).items()}


def untied(net: Net) -> dict[str, torch.Tensor]:
    """A net's tensors, each under its first name: those of T5's words have two, and files one."""
    first: dict[int, str] = {}
    named = net.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in named.items() if first.setdefault(id(tensor), name) == name}


def silent(family: Family, part: str) -> Collection[str]:
    """The tensors of a part that one file of the family cannot say, as all who read it take them for the same."""
    return DIALECTS[family.original[part][1]].silent


def lines(family: Family, part: str, config: Config, names: Iterable[str]) -> list[Line]:
    root, dialect = family.original[part]
    return [line._replace(theirs=root + line.theirs) for line in DIALECTS[dialect].lines(config, names)]


def to_original(family: Family, parts: Mapping[str, Tensors], configs: Configs) -> tuple[dict[str, Lazy], Ledger]:
    """A model folder's tensors, by part, under their original names. Raises Refusal where one has no such name."""
    result: dict[str, Lazy] = {}
    for part, tensors in parts.items():
        try:
            table = lines(family, part, configs[part], tensors)
        except (KeyError, ValueError) as error:
            found = f"{error} has no name in the original layout"
            do = "keep it as a folder: diffusers and tenshot load that"
            raise Refusal(Fault(part, found, f"a {family.title} of released architecture", do)) from None
        refuse_if(_unsayable(family, part, configs[part], tensors))
        result |= {line.theirs: as_theirs(line, tensors) for line in table}
    dtype = next(iter(parts["text_encoder"].values())).dtype
    return unused_tensors.of(family, configs, dtype) | result, Ledger(sum(map(len, parts.values())))


def _unsayable(family: Family, part: str, config: Config, tensors: Tensors) -> Iterator[Fault]:
    """Tensors that the layout does not have, and that are not what its readers take them for."""
    for name, meant in DIALECTS[family.original[part][1]].silent.items():
        if name in tensors and not torch.equal(tensors[name].read().float(), meant(config)):
            found = f"its {name} is another than all programs take it for that read {family.title} from one file"
            do = "keep it as a folder: diffusers and tenshot load that"
            yield Fault(part, found, "the identity, as it was released", do)


def as_theirs(line: Line, tensors: Tensors) -> Lazy:
    """The original tensor that a line makes of ours."""
    ours = [tensors[name] for name in line.ours]
    shape = keymaps.shape_of(line.form, [lazy.shape for lazy in ours])
    return Lazy(shape, ours[0].dtype, partial(_joined, line.form, ours))


def _joined(form: keymaps.Form, ours: list[Lazy]) -> torch.Tensor:
    return keymaps.theirs_of(form, [lazy.read() for lazy in ours])


def to_parts(
    family: Family, tensors: Tensors, configs: Configs, ema: bool = False
) -> tuple[dict[str, dict[str, Lazy]], Ledger]:
    """An original checkpoint's tensors by part, under our names. Raises Refusal where any is missing or unaccounted."""
    table: list[Line] = []
    wanted: dict[str, tuple[int, ...]] = {}
    for part in family.original:
        names = skeleton(family.parts[part], configs[part])
        wanted |= {f"{part}/{name}": shape for name, shape in names.items()}
        for line in lines(family, part, configs[part], names):
            theirs = _averaged(line.theirs) if ema and part == family.denoiser else line.theirs
            table.append(Line(theirs, tuple(f"{part}/{name}" for name in line.ours), line.form))
    found, ledger = from_table(table, wanted, tensors, family.title, ema)
    parts: dict[str, dict[str, Lazy]] = {part: {} for part in family.original}
    for name, lazy in found.items():
        part, _, inner = name.partition("/")
        parts[part][inner] = lazy
    for part, (_, dialect) in family.original.items():
        for name, meant in DIALECTS[dialect].silent.items():
            tensor, dtype = meant(configs[part]), next(iter(parts[part].values())).dtype
            parts[part][name] = Lazy(tuple(tensor.shape), dtype, partial(tensor.to, dtype))
    return parts, ledger


def from_table(
    table: Iterable[Line], wanted: Shapes, tensors: Tensors, title: str, ema: bool = False
) -> tuple[dict[str, Lazy], Ledger]:
    """Our tensors from original ones. Raises Refusal where any is missing, of another shape, or unaccounted."""
    found: dict[str, Lazy] = {}
    packed: list[str] = []
    table = list(table)
    theirs = {line.theirs: keymaps.shape_of(line.form, [wanted[name] for name in line.ours]) for line in table}
    used = theirs.keys() & tensors.keys()
    differences = shapes.differences(
        {name: shapes.as_matrix(shape) for name, shape in theirs.items()},
        {name: shapes.as_matrix(tensors[name].shape) for name in used},
    )
    wrong = [f"{name} {list(tensors[name].shape)} instead of {list(theirs[name])}" for name in differences.wrong]
    for line in table:
        if line.theirs not in used:
            continue
        source = tensors[line.theirs]
        if not source.dtype.is_floating_point:
            packed.append(f"{line.theirs} {str(source.dtype).removeprefix('torch.')}")
        for place, name in enumerate(line.ours):
            found[name] = Lazy(wanted[name], source.dtype, partial(_taken, line, source, place, wanted[name]))
    left = {name: _reason(name, ema) for name in tensors if name not in used}
    strange = [name for name, reason in left.items() if not reason]
    counts = (
        (differences.missing, "are missing", f"a whole {title}", OTHER),
        (wrong, "have another shape", "shapes that belong together", OTHER),
        (packed, "hold whole numbers", "floats of 8, 16 or 32 bits", "take the same model in fp16 or bf16"),
        (strange, f"have no place in {title}", "only what it has", OTHER),
    )
    refuse_if(
        Fault(title, f"{len(names)} tensors {what}: {some(names)}", fits, do)
        for names, what, fits, do in counts
        if names
    )
    return found, Ledger(len(used), left)


def _taken(line: Line, source: Lazy, place: int, shape: tuple[int, ...]) -> torch.Tensor:
    return keymaps.ours_of(line.form, source.read(), len(line.ours))[place].reshape(shape)


def _averaged(name: str) -> str:
    """How the original code calls the running average of a weight."""
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def _reason(name: str, ema: bool) -> str:
    if ema and name.startswith("model.diffusion_model."):
        return "the running average was asked for"
    return next((reason for pattern, reason in REASONS.items() if re.match(pattern, name)), "")


def _as(lazy: Lazy, dtype: torch.dtype, name: str) -> torch.Tensor:
    return rounded(lazy.read(), dtype, name)


def cast(tensors: Tensors, dtype: torch.dtype | None) -> dict[str, Lazy]:
    """The same with floating-point numbers in `dtype`; whole numbers stay."""
    if dtype is None:
        return dict(tensors)
    return {
        name: replace(lazy, dtype=dtype, read=partial(_as, lazy, dtype, name)) if lazy.dtype.is_floating_point else lazy
        for name, lazy in tensors.items()
    }
