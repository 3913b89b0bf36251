"""How much of a cluster each cell gets, and how many run at a time. Pure."""

from __future__ import annotations

from typing import NamedTuple

from mtkd_dist.compare.tree import CompareConfig
from mtkd_dist.pools.placement import LayoutError, PoolSize, Resources


class Room(NamedTuple):
    cell: PoolSize
    """What each cell reserves; a part of a GPU where several share a card."""
    concurrent: int | None
    """Cells at a time; None: as many as find room."""


def room_of(compare: CompareConfig, available: Resources) -> Room:
    """Errors: LayoutError where not even one cell fits."""
    cell = compare.cell
    gpus = available.gpus if compare.num_gpus is None else compare.num_gpus
    of_cell = (1.0 if gpus else 0.0) if cell.gpus is None else cell.gpus
    if gpus > available.gpus or of_cell > gpus or cell.cpus > available.cpus:
        raise LayoutError(
            f"a cell wants {cell.cpus:g} CPUs and {of_cell:g} GPUs (cell.cpus, cell.gpus) of {gpus} GPUs (num_gpus), "
            f"and the cluster has {available.cpus} CPUs and {available.gpus} GPUs; ask for less, or name a larger "
            "cluster with --address"
        )
    # With a hair more: in floating point, three times a third may be less than one.
    return Room(PoolSize(1, cell.cpus, of_cell), int(gpus / of_cell + 1e-9) if of_cell else None)
