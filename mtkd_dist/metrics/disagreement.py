"""Where several images of one scene differ most: what to look at when models are compared by eye."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Window(NamedTuple):
    """A square part of an image."""

    top: int
    left: int
    side: int
    """Of an image that is smaller in one direction, the part is as much of it as there is."""
    disagreement: float
    """Standard deviation between the images in this part, in levels of 0 to 255."""

    def of(self, image: NDArray[np.uint8], shrunk: int = 1) -> NDArray[np.uint8]:
        """This part of (H,W,3), or of an image `shrunk` times smaller; a copy."""
        top, left, side = self.top // shrunk, self.left // shrunk, self.side // shrunk
        return np.ascontiguousarray(image[top : top + side, left : left + side])


def most_different(images: Sequence[NDArray[np.uint8]], side: int, step: int) -> Window:
    """The window in which the images differ most: the sum over its pixels of the variance between the images.

    Computed in integers, so that the choice is the same on every machine; of equal windows, the one whose centre is
    nearest to the image's (images that do not differ: the centre). A border of `step` pixels counts for nothing: what
    models make of an edge of the image is no feature of theirs.

    Args:
        images: at least one, (H,W,3) uint8, all of one size; H and W are multiples of `step`.
        side: of the window, a multiple of `step`.
        step: windows begin at its multiples; the enlargement, so that LR has the same window.
    """
    height, width = images[0].shape[:2]
    total, squares = np.zeros((2, height, width, 3), np.int32)  # room for 180 images
    for image in images:
        values = image.astype(np.int32)
        total += values
        squares += values * values
    # Of n values, n^2 times the variance is n * sum of squares - square of the sum.
    spread = (len(images) * squares - total * total).sum(axis=2, dtype=np.int64)
    inside = np.zeros_like(spread)
    inside[step:-step, step:-step] = spread[step:-step, step:-step]
    blocks = inside.reshape(height // step, step, width // step, step).sum(axis=(1, 3), dtype=np.int64)
    rows, columns = (min(side // step, blocks.shape[axis]) for axis in (0, 1))
    corners = np.pad(blocks.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    sums = corners[rows:, columns:] - corners[:-rows, columns:] - corners[rows:, :-columns] + corners[:-rows, :-columns]
    top, left = _nearest_to_middle(sums == sums.max())
    variance = int(sums[top, left]) / (len(images) ** 2 * 3 * rows * columns * step**2)
    return Window(top * step, left * step, side, math.sqrt(variance))


def _nearest_to_middle(candidates: NDArray[np.bool_]) -> tuple[int, int]:
    places = np.argwhere(candidates)
    away = (2 * places - (np.array(candidates.shape) - 1)) ** 2
    top, left = places[away.sum(axis=1).argmin()]
    return int(top), int(left)
