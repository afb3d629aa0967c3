"""The ways in which people lay out pictures with captions: all are read, and none is guessed.

- pictures, each with a text file of the same name beside it or without;
- a table that says what of which picture (io/caption_tables.py);
- folders named like `10_az baby`: ten repeats, and the rest of the name is the caption (kohya).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tenshot.core.errors import Fault, Refusal, refuse_if
from tenshot.io import caption_tables, captions
from tenshot.io.image_folder import MASK, REPEATED, Example, Say, is_picture, listed, read_folder, read_picture, tell
from tenshot.io.images import open_mask

TRAIN = "train"  # the split that the imagefolder layout calls so
MOST_REPEATS = 100_000


def read(
    folder: Path,
    *,
    option: str,
    column: str = caption_tables.COLUMN,
    masks: Path | None = None,
    say: Say = lambda text: None,
) -> list[Example]:
    """The pictures of `folder` in whichever of the layouts it has. Raises Refusal with every fault.

    option: what the person typed to name the folder. column: the captions' column in metadata. masks: a folder with a
    mask for pictures by their names. say: is told what lies there and is not used.
    """
    place = _split(folder, option, say)
    found = [
        table for each in dict.fromkeys((folder, place)) for table in caption_tables.found(listed(each, option)[0])
    ]
    refuse_if(_several(found))
    if column != caption_tables.COLUMN and not any(caption_tables.has_columns(table) for table in found):
        say(f"--caption_column {column}: there is no {' or '.join(caption_tables.NAMES)}, and nothing else has columns")
    repeated = _repeated(place, option)
    if found:
        examples = _from_table(found[0], column, say)
        tell(say, f"no repeats by name, {found[0].name} speaks for all", [each for each, _, _ in repeated])
    elif repeated:
        examples = _from_folders(repeated, place, option, say)
    else:
        examples = read_folder(place, option=option, say=say)
    tell(say, "animated, of which the first picture is learned", [each.path for each in examples if each.animated])
    return examples if masks is None else _masked(examples, masks)


def _split(folder: Path, option: str, say: Say) -> Path:
    """The folder that the pictures lie in: `train`, where there are none beside it."""
    files, folders = listed(folder, option)
    if not (folder / TRAIN).is_dir() or any(map(is_picture, files)):
        return folder
    tell(say, "beside train, not learned from", [each for each in folders if each.name != TRAIN])
    return folder / TRAIN


def _several(found: Sequence[Path]) -> Iterator[Fault]:
    if len(found) > 1:
        names = ", ".join(map(str, found))
        yield Fault(str(found[0].parent), f"several tables of captions: {names}", "one", "move the others elsewhere")


def _repeated(folder: Path, option: str) -> list[tuple[Path, str, str]]:
    """The folders called like `10_az baby`, with the number and the words."""
    found = [(each, REPEATED.fullmatch(each.name)) for each in listed(folder, option)[1]]
    return [(each, match[1], match[2].strip()) for each, match in found if match]


def _from_folders(repeated: Sequence[tuple[Path, str, str]], place: Path, option: str, say: Say) -> list[Example]:
    examples: list[Example] = []
    known = {each for each, _, _ in repeated}
    files, folders = listed(place, option)
    faults = [_beside(each) for each in (*files, *folders) if each not in known and _counts(each)]
    for inner, number, words in repeated:
        repeats = int(number)
        if not 1 <= repeats <= MOST_REPEATS:
            found = "0 repeats: its pictures would never be used" if not repeats else f"{number[:20]} repeats"
            faults.append(Fault(str(inner), found, f"1 to {MOST_REPEATS}", "rename it"))
            continue
        try:
            pictures = read_folder(inner, option=option, say=say)
        except Refusal as refusal:
            faults += refusal.faults
            continue
        examples += [replace(each, caption=each.caption or words or None, repeats=repeats) for each in pictures]
    refuse_if(faults)
    idle = [file for file in files if file.suffix.lower() in captions.SUFFIXES | {".json"}]
    tell(say, "beside folders like 10_az baby, not read", idle)
    return examples


def _counts(entry: Path) -> bool:
    """Would someone expect this to be learned?"""
    return any(map(is_picture, listed(entry, str(entry))[0])) if entry.is_dir() else is_picture(entry)


def _beside(entry: Path) -> Fault:
    kind = "a folder of pictures" if entry.is_dir() else "a picture"
    found = f"{kind} beside folders like 10_az baby: it would not be used"
    return Fault(str(entry), found, "all pictures in folders with repeats", "rename it, or move it elsewhere")


def _from_table(table: Path, column: str, say: Say) -> list[Example]:
    faults: list[Fault] = []
    examples, empty = [], []
    for path, caption in caption_tables.rows(table, column, faults):
        try:
            examples.append(read_picture(path, caption))
        except Refusal as refusal:
            faults += refusal.faults
        empty += [] if caption else [path]
        if len(faults) >= caption_tables.MOST_FAULTS:
            refuse_if(faults)
    pictures, texts = _below(table.parent)
    faults += _unlisted(pictures, {each.path for each in examples}) if not faults else []
    refuse_if(faults)
    tell(say, f"empty in {table.name}, as if there were no caption", empty)
    tell(say, f"not read, {table.name} speaks for all pictures", texts)
    return examples


def _below(folder: Path) -> tuple[list[Path], list[Path]]:
    """All pictures in and below `folder`, and all text files."""
    paths = ((path, path.relative_to(folder).parts) for path in sorted(folder.rglob("*")))
    found = [path for path, parts in paths if not any(part.startswith(".") for part in parts)]
    return [each for each in found if is_picture(each)], [e for e in found if e.suffix.lower() in captions.SUFFIXES]


def _unlisted(pictures: Sequence[Path], listed: set[Path]) -> Iterator[Fault]:
    for path in pictures:
        if path not in listed:
            do = "add a line for it, or move it elsewhere"
            yield Fault(str(path), "stands in no line of the metadata: it would not be used", "every picture", do)


def _masked(examples: Sequence[Example], folder: Path) -> list[Example]:
    """The same examples with the masks in `folder` that bear their names, however these are written."""
    exact, alike = captions.by_name({each.path: each for each in examples})
    owners: dict[Path, list[Example]] = {}
    masks = read_folder(folder, option="--mask_dir")
    for mask in masks:
        names = [mask.path.stem, *(match[1] for match in [MASK.fullmatch(mask.path.stem)] if match)]
        found = (exact.get(name) or alike.get(captions.folded(name)) for name in names)
        owners[mask.path] = next(filter(None, found), [])
    refuse_if(_mask_faults(masks, owners))
    of = {owner.path: path for path, (owner,) in owners.items()}
    return [replace(each, mask=of.get(each.path)) for each in examples]


def _mask_faults(masks: Sequence[Example], owners: Mapping[Path, Sequence[Example]]) -> Iterator[Fault]:
    taken: dict[Path, Path] = {}
    for mask in masks:
        path = mask.path
        if not owners[path]:
            yield Fault(str(path), "a mask for no picture", "masks by the names of their pictures", "rename it")
            continue
        owner, *others = owners[path]
        for other in others:
            found = f"the mask {path.name} is meant for two pictures, {owner.path} too"
            yield Fault(str(other.path), found, "pictures with masks under names of their own", "rename one")
        if (first := taken.setdefault(owner.path, path)) != path:
            found = f"a second mask for {owner.path.name}, beside {first.name}"
            yield Fault(str(path), found, "one mask for a picture", "remove one of them")
        if not open_mask(path).getbbox():
            found, fits = "black all over: nothing of its picture would be learned", "white where its picture counts"
            yield Fault(str(path), found, fits, "remove it, or invert it")
        (width, height), (wide, high) = owner.size, mask.size
        if abs(width * high - wide * height) > 0.01 * width * high:
            found = f"{wide}x{high}, but its picture is {width}x{height}"
            yield Fault(str(path), found, "a mask of its picture's proportions", f"make it {width}x{height}")
