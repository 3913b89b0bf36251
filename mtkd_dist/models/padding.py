"""Padding that every network uses to accept images of any size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad


def shortfall(size: int, minimum: int = 1, multiple: int = 1) -> int:
    """How many pixels `size` lacks to be at least `minimum` and a multiple of `multiple`."""
    # In this form a size may be a symbol (`torch.export`), and the sum with it is known to be a multiple.
    return multiple * ((torch.sym_max(size, minimum) + multiple - 1) // multiple) - size


def pad_bottom_right(images: Tensor, bottom: int, right: int) -> Tensor:
    """Mirror (B,C,H,W) over its lower and right edges to (B,C,H+bottom,W+right); the input itself when both are 0.

    A mirror reaches at most H-1 (W-1) pixels; what a very small image still lacks repeats its last row (column).
    """
    if torch.compiler.is_exporting():
        return _pad_by_index(images, bottom, right)
    if not bottom and not right:
        return images
    height, width = images.shape[-2:]
    mirrored_bottom, mirrored_right = min(bottom, height - 1), min(right, width - 1)
    images = pad(images, (0, mirrored_right, 0, mirrored_bottom), mode="reflect")
    return pad(images, (0, right - mirrored_right, 0, bottom - mirrored_bottom), mode="replicate")


def _pad_by_index(images: Tensor, bottom: int, right: int) -> Tensor:
    """The same without a decision that depends on sizes, so that these may be symbols."""
    height, width = images.shape[-2:]
    return images.index_select(-2, _mirrored(height, bottom)).index_select(-1, _mirrored(width, right))


def _mirrored(size: int, more: int) -> Tensor:
    """(size+more,): where the pixels of a padded row come from: 0 1 2 1 0 0 for a `size` of 3 and 3 `more`."""
    last = size - 1
    return (last - (torch.arange(size + more) - last).abs()).clamp(min=0)
