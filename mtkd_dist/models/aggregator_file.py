"""The file of a trained aggregator. It knows its teachers by name and order: a permuted one would be silently wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mtkd_dist.models.aggregator import DCTSwin, build_aggregator
from mtkd_dist.models.weights import load_strict, read_metadata, read_state_dict, save_network


def save_aggregator(path: Path, aggregator: DCTSwin, network: str, scale: int, teachers: Sequence[str]) -> None:
    """Weights as safetensors with `network` (its text), `scale` and `teachers` (names in order) as metadata."""
    save_network(path, aggregator, {"network": network, "scale": str(scale), "teachers": json.dumps(list(teachers))})


def load_aggregator(path: Path, teachers: Sequence[str], scale: int) -> DCTSwin:
    """A frozen aggregator: (B,N,3,H,W) in [0,1] -> (B,3,H,W).

    Errors: ValueError when the file was trained for other teachers, another order of them, or another scale.
    """
    metadata = read_metadata(path)
    if not metadata.keys() >= {"network", "scale", "teachers"}:
        raise ValueError(f"{path} is not an aggregator of mtkd-dist: it says no network, scale and teachers")
    found = (json.loads(metadata["teachers"]), int(metadata["scale"]))
    if found != (list(teachers), scale):
        raise ValueError(
            f"{path} was trained for teachers {found[0]} at x{found[1]}, expected {list(teachers)} at x{scale}; "
            "give the teachers in that order, or train the aggregator again"
        )
    aggregator = build_aggregator(metadata["network"], len(teachers), scale)
    load_strict(aggregator, read_state_dict(path), str(path))
    return aggregator.eval().requires_grad_(False)
