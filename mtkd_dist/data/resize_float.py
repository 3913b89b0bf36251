"""The fast kind of MATLAB's bicubic: on any device, in floating point, differentiable; for training, not for scores."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mtkd_dist.data.resize import check_divisible, downscale_taps


def bicubic_downscale(hr: Tensor, scale: int) -> Tensor:
    """Shrink images as :func:`~mtkd_dist.data.matlab_downscale` does, but for the rounding and the clipping.

    57 to 58 dB from it on photographs. Sums are in float32 at least, whatever the dtype and autocast.

    Args:
        hr: (B, 3, H, W) floating point in [0, 1]; H and W are multiples of ``scale``.
        scale: whole factor, at least 1.

    Returns:
        (B, 3, H/scale, W/scale) of the same dtype and device; beside sharp edges it reaches a little beyond [0, 1].

    Raises:
        ValueError: for another dtype or number of dimensions, a scale below 1, or a size that is no multiple of it.
    """
    if not hr.is_floating_point() or hr.ndim != 4 or scale < 1:
        raise ValueError(
            f"expected floating point images (B, 3, H, W) and a scale >= 1, got {hr.dtype} "
            f"{tuple(hr.shape)} and {scale}"
        )
    height, width = hr.shape[-2:]
    check_divisible(height, width, scale)
    dtype = torch.promote_types(hr.dtype, torch.float32)
    rows, columns = (_weights(side, scale, dtype, hr.device) for side in (height, width))
    with torch.autocast(hr.device.type, enabled=False):
        return (rows @ hr.to(dtype) @ columns.T).to(hr.dtype)


@lru_cache(maxsize=64)
def _weights(size: int, scale: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size/scale, size): one row of weights for each output pixel. Mirrored edges fold into it."""
    indices, weights = downscale_taps(size, scale)
    matrix = np.zeros((len(indices), size))
    np.add.at(matrix, (np.arange(len(indices))[:, None], indices), weights)
    with torch.inference_mode(False):  # it is kept, and may be asked for gradients through it later
        return torch.from_numpy(matrix).to(device, dtype)
