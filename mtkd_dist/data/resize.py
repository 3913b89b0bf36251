"""MATLAB's ``imresize(..., "bicubic")`` on uint8 images, value for value.

The LR images of the super-resolution literature were made with it, and no common library repeats it. Two details
decide: the vertical pass runs first, and its result is rounded to uint8 before the horizontal pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Uint8Image = NDArray[np.uint8]


def matlab_downscale(hr: Uint8Image, scale: int) -> Uint8Image:
    """Shrink an image as ``imresize(hr, 1/scale, "bicubic")`` does, with antialiasing.

    Args:
        hr: (H, W, C) uint8; H and W are multiples of ``scale``.
        scale: whole factor, at least 1.

    Returns:
        (H/scale, W/scale, C) uint8.

    Raises:
        ValueError: for another dtype or number of dimensions, a scale below 1, or a size that is no multiple of it.
    """
    _check(hr, scale)
    check_divisible(hr.shape[0], hr.shape[1], scale)
    return _resize(hr, *(downscale_taps(side, scale) for side in hr.shape[:2]))


def bicubic_upscale(lr: Uint8Image, scale: int) -> Uint8Image:
    """Enlarge an image as ``imresize(lr, scale, "bicubic")`` does: the "bicubic" row of the papers' tables.

    Args:
        lr: (h, w, C) uint8.
        scale: whole factor, at least 1.

    Returns:
        (scale*h, scale*w, C) uint8.

    Raises:
        ValueError: for another dtype or number of dimensions, or a scale below 1.
    """
    _check(lr, scale)
    rows, columns = (_taps(n, (np.arange(n * scale) + 0.5) / scale - 0.5, stretch=1) for n in lr.shape[:2])
    return _resize(lr, rows, columns)


def check_divisible(height: int, width: int, scale: int) -> None:
    """Errors: ValueError for an HR size that is no multiple of the scale."""
    if height % scale or width % scale:
        raise ValueError(
            f"an HR image of {height}x{width} pixels cannot be shrunk by {scale}: "
            f"crop it to {height // scale * scale}x{width // scale * scale} first"
        )


def downscale_taps(size: int, scale: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which input pixels make each output pixel along one axis of ``size`` pixels, and with which weight.

    Returns:
        Indices and weights, both (size/scale, taps); the weights of an output add up to 1.
    """
    # The centre of output pixel i lies at i*scale + (scale-1)/2 of the input; the kernel is stretched by the scale.
    return _taps(size, np.arange(size // scale) * scale + (scale - 1) / 2, stretch=scale)


def _check(image: NDArray[Any], scale: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"expected a non-empty uint8 image (H, W, C), got {image.dtype} {image.shape}")
    if scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, got {scale}")


def _keys(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic convolution kernel of Keys (1981), equations 4 and 15, with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _taps(size: int, centres: NDArray[Any], stretch: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Which input pixels make each output pixel along one axis of ``size`` pixels, and with which weight.

    Returns:
        Indices and weights, both (outputs, taps); the weights of an output add up to 1.
    """
    support = 2 * stretch
    indices = np.floor(centres - support).astype(np.intp)[:, None] + np.arange(2 * support + 2)
    weights = _keys((centres[:, None] - indices) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    # Symmetric edges, mirrored between the pixels: 1 0 | 0 1 2 | 2 1, as often as a small image needs it.
    folded = indices % (2 * size)
    indices = np.where(folded < size, folded, 2 * size - 1 - folded)
    used = weights.any(axis=0)
    return indices[:, used], weights[:, used]


def _resize(
    image: Uint8Image,
    rows: tuple[NDArray[np.intp], NDArray[np.float64]],
    columns: tuple[NDArray[np.intp], NDArray[np.float64]],
) -> Uint8Image:
    tall = _resize_rows(image, *rows)
    return np.ascontiguousarray(_resize_rows(tall.swapaxes(0, 1), *columns).swapaxes(0, 1))


def _resize_rows(image: Uint8Image, indices: NDArray[np.intp], weights: NDArray[np.float64]) -> Uint8Image:
    # One tap at a time: memory stays at a few copies of the output, however wide the kernel is.
    total = np.zeros((len(indices), *image.shape[1:]))
    for index, weight in zip(indices.T, weights.T, strict=True):
        total += weight[:, None, None] * image[index]
    # Half away from zero, which for what is left after clipping is half up; np.round would take halves to even.
    return np.floor(np.clip(total, 0, 255) + 0.5).astype(np.uint8)
