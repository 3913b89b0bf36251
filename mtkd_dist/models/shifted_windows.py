"""What the cyclic shift of a shifted-window attention puts together, and the mask that takes it apart again.

Both depend on sizes alone and are remembered, so no forward builds them again.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_BLOCKED = -100.0
"""Added to a logit by all Swin networks; e^-100 is 0 beside any other weight."""


@lru_cache(maxsize=4)  # a mask of a large image takes tens of megabytes
def region_mask(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """(windows,n^2,n^2) float32 for n = `window`, 0 between pixels that were neighbours before the shift, else -100.

    Args:
        size: height and width of the token grid, multiples of `window`.
        shift: places by which the grid was rolled up and left; 0 mixes nothing and gives (1,n^2,n^2) zeros.
    """
    # A mask made in inference mode could not be used in training afterwards.
    with torch.inference_mode(False):
        if not shift:
            return torch.zeros(1, window**2, window**2, device=device)
        return symbolic_region_mask(size, window, shift, device)


def symbolic_region_mask(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """The mask of a `shift` above 0, made anew: where sizes are symbols (`torch.export`) there is none to remember."""
    regions = _regions(size, window, shift, device)
    return _BLOCKED * (regions[:, None, :] != regions[:, :, None]).float()


@lru_cache(maxsize=64)
def mixed_windows(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """(windows,) bool, True where the shift put pixels of several regions into one window. Arguments as above."""
    with torch.inference_mode(False):
        regions = _regions(size, window, shift, device)
        return (regions != regions[:, :1]).any(dim=1)


def _regions(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """(windows,n^2): 0 for a pixel that the roll moved without wrapping; others for right edge, bottom and corner."""
    height, width = size
    # Laid out by windows at once: to cut a map of pixels into windows would copy it, and its layout in memory depends
    # on sizes, which `torch.export` would take for a condition.
    wrapped_rows = (torch.arange(height, device=device) >= height - shift).int().reshape(-1, 1, window, 1)
    wrapped_columns = (torch.arange(width, device=device) >= width - shift).int().reshape(1, -1, 1, window)
    return (2 * wrapped_rows + wrapped_columns).reshape(-1, window**2)
