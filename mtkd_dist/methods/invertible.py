"""Augmentations of an image that can be undone on a larger version of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

OPERATIONS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("invert", lambda images: 1 - images),
    ("mirror", lambda images: images.flip(-1)),
    ("turn over", lambda images: images.flip(-2)),
    ("transpose", lambda images: images.transpose(-1, -2)),
)
"""Name, and images (B,3,h,h) in [0,1] -> the same. Each undoes itself, and they do not commute."""


def augment(images: Tensor, chosen: Tensor) -> Tensor:
    """(B,3,h,h) -> the same, with the operations done to each image that are `chosen` for it: (B,4) bool."""
    return _apply(images, chosen, range(len(OPERATIONS)))


def undo(images: Tensor, chosen: Tensor) -> Tensor:
    """Undoes `augment`, on images of any size: the last operation first."""
    return _apply(images, chosen, reversed(range(len(OPERATIONS))))


def _apply(images: Tensor, chosen: Tensor, order: Iterable[int]) -> Tensor:
    for k in order:
        images = OPERATIONS[k][1](images).where(chosen[:, k, None, None, None], images)
    return images
