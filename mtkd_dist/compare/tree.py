"""The configuration of a comparison, with the sentence under each field as its help text. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from mtkd_dist.config.tree import ClusterConfig, MethodName

METHODS: tuple[MethodName, ...] = get_args(MethodName)


@dataclass(frozen=True)
class CellConfig:
    """What one cell of the comparison needs: a training in one process."""

    cpus: float = 1.0
    """CPU cores of one cell."""
    gpus: float | None = None
    """GPUs of one cell, also a part of one (0.5: two cells share a card); default: one where there are GPUs."""
    retries: int = 1
    """So often a cell whose process died is started again, from its last checkpoint."""


@dataclass(frozen=True)
class CompareConfig:
    """Compare distillation methods: same students, photographs, steps and seeds, teachers that answer once for all."""

    preset: str = "demo"
    """Where the defaults of all other keys come from: demo, or paper-x2, paper-x3, paper-x4 with launch.data."""
    output: str = "runs/compare"
    """Folder of everything that the comparison writes. The same command goes on with it; methods, students and seeds
    may be added."""
    methods: list[str] = field(default_factory=lambda: list(METHODS))
    """How students learn; see --method of mtkd launch."""
    students: list[str] = field(default_factory=list)
    """Networks to train (NAME or NAME:width=32,blocks=4)."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Each is the seed of weights and plan of one training of every method and student."""
    launch: dict[str, Any] = field(default_factory=dict)
    """Keys of a launch's configuration that all cells share (preset, data, test, teachers, distil: {steps: ...})."""
    cell: CellConfig = field(default_factory=CellConfig)
    num_gpus: int | None = None
    """GPUs of the whole comparison; default: all that the cluster has."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def _paper(scale: int) -> CompareConfig:
    return CompareConfig(
        preset=f"paper-x{scale}",
        output=f"runs/compare-x{scale}",
        students=["edsr-baseline", "rcan-light", "swinir-light"],
        launch={"preset": f"paper-x{scale}"},
    )


PRESETS = {
    # Minutes on two CPU cores.
    "demo": CompareConfig(
        students=["edsr-baseline:width=16,blocks=3", "rcan:groups=2,blocks=2,width=16,reduction=4"],
        seeds=[0, 1],
        launch={"preset": "demo-compare"},
    ),
    "paper-x2": _paper(2),
    "paper-x3": _paper(3),
    "paper-x4": _paper(4),
}
