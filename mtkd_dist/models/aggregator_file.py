"""The file of a trained aggregator. It knows its teachers by name, order and digest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mtkd_dist.models.aggregator import DCTSwin, build_aggregator
from mtkd_dist.models.provenance import check_made_with, teachers_text
from mtkd_dist.models.registry import is_network_name
from mtkd_dist.models.weights import load_strict, read_metadata, read_state_dict


def aggregator_path(text: str) -> Path | None:
    """The file that the setting `aggregator` gives, or None where it is the text of a network to train."""
    return Path(text) if text.endswith(".safetensors") else None


def is_aggregator(path: str | os.PathLike[str]) -> bool:
    """Whether a weight file is that of an aggregator. A student's speaks of teachers as well, but its network enlarges.

    Errors: as `read_metadata`.
    """
    metadata = read_metadata(path)
    return metadata.keys() >= {"network", "scale", "teachers"} and not is_network_name(metadata["network"])


def aggregator_metadata(network: str, scale: int, teachers: Mapping[str, str]) -> dict[str, str]:
    """What its file says: `network` (its text), `scale` and `teachers` (name -> SHA-256, in order)."""
    return {"network": network, "scale": str(scale), "teachers": teachers_text(teachers)}


def load_aggregator(path: Path, teachers: Mapping[str, str], scale: int) -> DCTSwin:
    """A frozen aggregator: (B,N,3,H,W) in [0,1] -> (B,3,H,W).

    `teachers`: name -> SHA-256 of the file of those whose images it will get, in order.
    Errors: FileNotFoundError; ValueError when it is no aggregator, or was trained for others, in another order or for
    another scale.
    """
    check_made_with(path, "aggregator", teachers, scale)
    network = read_metadata(path)["network"]
    try:
        aggregator = build_aggregator(network, len(teachers), scale)
    except ValueError as error:
        raise ValueError(f"{path} is no aggregator: {error}; give the aggregator.safetensors of a run") from error
    load_strict(aggregator, read_state_dict(path), str(path))
    return aggregator.eval().requires_grad_(False)
