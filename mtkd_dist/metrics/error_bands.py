"""The spectrum of an error: how large it is from the coarsest structures of an image to the finest."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mtkd_dist.metrics.psnr_ssim import rgb_to_y, shave
from mtkd_kernels import haar_dwt2

LEVELS = 3
"""Of the transform: with 3, also what 8x8 pixels share has a band, beyond the finest of LR at every scale."""
BANDS = (f"LL{LEVELS}", *(f"{band}{level}" for level in range(LEVELS, 0, -1) for band in ("LH", "HL", "HH")))
"""From coarse to fine, named as `mtkd_kernels.haar_dwt2` does: LH between rows, HL between columns, HH diagonal."""


def error_bands(sr: NDArray[np.uint8], hr: NDArray[np.uint8], border: int) -> dict[str, float]:
    """Band -> mean |coefficient| of the orthonormal Haar transform of SR - HR, on luma in levels of 0 to 255.

    An error that is the same at all frequencies (white noise) is equally large in all bands. What the sides have beyond
    a multiple of 8 is left out, at the right and below.

    Args:
        sr: (H, W, 3) uint8 RGB.
        hr: (H, W, 3) uint8 RGB.
        border: pixels to leave out on every side; at least 8 must be left.
    """
    sr, hr = shave(sr, hr, border=border)
    height, width = (side // 2**LEVELS * 2**LEVELS for side in hr.shape[:2])
    error = torch.from_numpy(rgb_to_y(sr) - rgb_to_y(hr))[None, None, :height, :width]
    low, details = haar_dwt2(error, LEVELS)
    coarse_to_fine = [low, *(band for level in reversed(details) for band in level)]
    return {name: float(band.abs().mean()) for name, band in zip(BANDS, coarse_to_fine, strict=True)}
