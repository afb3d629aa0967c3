"""`tenshot convert` of one net alone: folder <-> file of the original layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tenshot.core.errors import Fault, Refusal
from tenshot.core.events import Events
from tenshot.core.results import Written
from tenshot.families import conversion
from tenshot.io import tensors
from tenshot.model import checkpoint
from tenshot.model.header import TOLD
from tenshot.model.single_nets import NETS, Read


def write(found: Read, dtype: torch.dtype | None, target: Path, events: Events, file: bool) -> Written:
    """A net under its original names in one file, or as the folder that diffusers opens."""
    kind = found.net.kind.__name__
    if not file:
        with tensors.replacing_folder(target) as folder:
            checkpoint.write_net(folder, found.net.kind, found.config, conversion.cast(found.content, dtype), events)
        return {"what": kind, "written": str(target), "ledger": found.ledger.told()}
    net = next(net for net in NETS if net.kind is found.net.kind)  # the first of a kind has the original names
    try:
        table = net.lines(found.config, found.content)
    except KeyError as error:
        told, do = f"{error} has no original name", "keep it as a folder: diffusers loads that"
        raise Refusal(Fault(str(found.place), told, "a released architecture", do)) from None
    made = {net.root + line.theirs: conversion.as_theirs(line, found.content) for line in table}
    about = {"format": "pt", TOLD: json.dumps({"configs": {"net": dict(found.config)}}, sort_keys=True)}
    made = conversion.cast(made, dtype)
    if target.suffix == ".ckpt":
        tensors.write_pickle(target, made, {TOLD: about[TOLD]})
    else:
        tensors.write(target, made, about, events)
    return {"what": kind, "written": str(target), "ledger": {"used": len(found.content)}}
