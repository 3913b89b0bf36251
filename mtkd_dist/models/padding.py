"""Padding that every network uses to accept images of any size."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad


def shortfall(size: int, minimum: int = 1, multiple: int = 1) -> int:
    """How many pixels `size` lacks to be at least `minimum` and a multiple of `multiple`."""
    wanted = max(size, minimum)
    return wanted + (-wanted) % multiple - size


def pad_bottom_right(images: Tensor, bottom: int, right: int) -> Tensor:
    """Mirror (B,C,H,W) over its lower and right edges to (B,C,H+bottom,W+right); the input itself when both are 0.

    A mirror reaches at most H-1 (W-1) pixels; what a very small image still lacks repeats its last row (column).
    """
    if not bottom and not right:
        return images
    height, width = images.shape[-2:]
    mirrored_bottom, mirrored_right = min(bottom, height - 1), min(right, width - 1)
    images = pad(images, (0, mirrored_right, 0, mirrored_bottom), mode="reflect")
    return pad(images, (0, right - mirrored_right, 0, bottom - mirrored_bottom), mode="replicate")
