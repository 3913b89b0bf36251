"""Pictures of any size in tiles that overlap and are blended there: no seam, and no picture is held twice.

`mtkd_dist.models.tiling` has hard seams at fixed places: rendered teacher images and scores are made with them, and are
to stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

OVERLAP = 128
"""LR pixels that neighbouring tiles have in common at least."""
RAMP = 32
"""In the middle of these, one tile takes over from the other. So no pixel counts that is less than 48 from an edge that
is none of the picture; up to there RLFN, which pools, answers clearly otherwise than to the whole (DCTLSA up to 16)."""
GRID = 32
"""Tiles begin at multiples of it: windows of attention (8, 16 or 32 pixels) lie where they would without tiles."""
SMALLEST = OVERLAP + GRID
"""Side of the smallest possible tile, in LR pixels."""


class Span(NamedTuple):
    """One tile along one axis."""

    start: int
    stop: int
    """LR pixels."""
    weights: Tensor
    """(s*(stop-start),) float32: of its enlarged pixels; those of all spans add up to 1 at every pixel."""


def spans(length: int, tile: int, scale: int) -> list[Span]:
    """As few tiles as cover `length` LR pixels, of nearly the same size and none larger than `tile`.

    Between neighbours, weights change along :data:`RAMP`.
    """
    if length <= tile:
        return [Span(0, length, torch.ones(scale * length))]
    tile = tile // GRID * GRID
    count = -(-(length - OVERLAP) // (tile - OVERLAP))
    side = -(-(length + (count - 1) * OVERLAP) // (count * GRID)) * GRID
    pieces = [(start, min(start + side, length)) for start in range(0, length - OVERLAP, side - OVERLAP)]
    ramps = [_ramp(scale * (stop - start), scale, rises=start > 0, falls=stop < length) for start, stop in pieces]
    return [Span(start, stop, ramp) for (start, stop), ramp in zip(pieces, ramps, strict=True)]


def _ramp(length: int, scale: int, rises: bool, falls: bool) -> Tensor:
    """(length,) ones; over an overlap, a slope from 0 to 1 that adds up to 1 with that of the neighbour."""
    slope = (((torch.arange(length) + 0.5) / scale - (OVERLAP - RAMP) / 2) / RAMP).clamp(0, 1)
    ramp = torch.ones(length)
    return ramp * (slope if rises else 1) * (slope.flip(0) if falls else 1)


def enlarged_strips(network: Callable[[Tensor], Tensor], lr: Tensor, scale: int, tile: int) -> Iterator[Tensor]:
    """The enlarged picture from top to bottom in strips (B,3,rows,s*w), float32 on the CPU, as soon as they are done.

    Args:
        network: (B,3,h,w) -> (B,3,s*h,s*w), on any device.
        lr: (B,3,h,w) where the network is.
        tile: side in LR pixels of what the network sees at once, :data:`SMALLEST` or more.

    An answer is that to the whole picture where the network looks at a neighbourhood of 48 LR pixels, and hardly
    another where it looks further. Attention over whole images and global pooling see a tile only; and networks that
    look beyond one border at the other (DCTLSA) find another one there.
    """
    height, width = lr.shape[-2:]
    columns, rows = spans(width, tile, scale), spans(height, tile, scale)
    shared = torch.zeros(len(lr), 3, 0, scale * width)  # rows that a strip has in common with the next
    for row, end in zip(rows, [*(row.start for row in rows[1:]), height], strict=True):
        strip = torch.zeros(len(lr), 3, scale * (row.stop - row.start), scale * width)
        for column in columns:
            piece = network(lr[..., row.start : row.stop, column.start : column.stop]).float().cpu()
            weights = row.weights[:, None] * column.weights
            strip[..., scale * column.start : scale * column.stop].addcmul_(piece, weights)
        strip[..., : shared.shape[-2], :] += shared
        done = scale * (end - row.start)
        yield strip[..., :done, :]
        shared = strip[..., done:, :].clone()  # without the rest of the strip
