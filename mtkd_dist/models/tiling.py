"""Large images in tiles: what a forward needs in memory grows with the image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TILE = 512
"""Side of a tile in LR pixels; an image that is not larger is done whole."""
OVERLAP = 32
"""LR pixels on each inner side of a tile that are computed for the sake of its neighbours and cut off."""


def enlarge(
    network: Callable[[Tensor], Tensor], lr: Tensor, scale: int, tile: int = TILE, overlap: int = OVERLAP
) -> Tensor:
    """`network(lr)`, in tiles where `lr` is larger than one.

    Args:
        network: (B,...,h,w) -> (B,...,s*h,s*w).
        lr: (B,3,h,w); for an aggregator (B,N,3,H,W), with a scale of 1 and `tile` and `overlap` in HR pixels.

    Away from the seams by more than the network's receptive field the result is that of the whole image. Attention
    over whole images and global pooling see a tile only.
    """
    height, width = lr.shape[-2:]
    if height <= tile and width <= tile:
        return network(lr)
    result: Tensor | None = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            y, x = max(0, top - overlap), max(0, left - overlap)
            piece = network(lr[..., y : bottom + overlap, x : right + overlap])
            if result is None:
                result = torch.empty(
                    *piece.shape[:-2], scale * height, scale * width, dtype=piece.dtype, device=piece.device
                )
            result[..., scale * top : scale * bottom, scale * left : scale * right] = piece[
                ..., scale * (top - y) : scale * (bottom - y), scale * (left - x) : scale * (right - x)
            ]
    assert result is not None
    return result
