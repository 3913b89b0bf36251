"""Weights as safetensors, for mtkd-dist and for whoever knows the architecture by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from mtkd_dist.export.publication import architecture
from mtkd_dist.export.source import Source
from mtkd_dist.export.trace import CHECKED, TOLERANCE
from mtkd_dist.models import load_network, read_state_dict, save_tensors
from mtkd_dist.models.basicsr_names import official_names
from mtkd_dist.models.spandrel_adapter import recognise


def write_safetensors(path: Path, source: Source, metadata: Mapping[str, str]) -> None:
    """The same source, metadata and version make the same bytes.

    Errors: ValueError where the file, read again, answers otherwise than the source.
    """
    # Under the names by which most programs know an architecture: those of its authors.
    tensors = source.tensors if source.is_ours else official_names(source.tensors, source.network.input_range)
    save_tensors(path, tensors, metadata)
    again = load_network(path, source.network.scale, source.network.input_range).module
    lr = torch.rand(CHECKED[0])
    if not torch.equal(again(lr), source.network.module(lr)):
        raise ValueError(f"{path.name} answers otherwise than {source.file}, and is not written")


def by_mtkd_dist(path: Path, source: Source) -> str:
    """A phrase on what it takes to read the file here."""
    value_range = source.network.input_range
    if load_network(path).input_range == value_range:
        return "mtkd-dist reads it"
    return f"mtkd-dist reads it as {path.name}:input_range={value_range:g}, which no file can state"


def by_spandrel(path: Path, source: Source) -> str:
    """A phrase on what spandrel, and what is built on it, makes of the file; found out by asking it."""
    theirs, name = f"spandrel {version('spandrel')}", architecture(source)
    try:
        found = recognise(read_state_dict(path), path.name)
    except ValueError:
        return f"{theirs} does not know {name}, and what is built on it can use the ONNX file"
    lr = torch.rand(1, 3, 31, 45)  # below 16 pixels spandrel pads some networks differently
    with torch.no_grad():
        difference = (found(lr) - source.network.module(lr)).abs().max().item()
    if not difference <= TOLERANCE:
        return f"{theirs} takes it for {found.architecture} with other settings and answers otherwise"
    return f"{theirs} reads it as {found.architecture}"
