"""The Haar L1 loss in plain torch operations: what the faster paths must agree with, and the path of every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DetailBands = tuple[Tensor, Tensor, Tensor]


def haar_analysis(x: Tensor, levels: int) -> tuple[Tensor, list[DetailBands]]:
    """:func:`mtkd_kernels.haar_dwt2` without its checks."""
    low, details = x, []
    for _ in range(levels):
        upper, lower = low.unflatten(-2, (-1, 2)).unbind(-2)
        row_sum_left, row_sum_right = (upper + lower).unflatten(-1, (-1, 2)).unbind(-1)
        row_gap_left, row_gap_right = (upper - lower).unflatten(-1, (-1, 2)).unbind(-1)
        lh = (row_gap_left + row_gap_right) / 2
        hl = (row_sum_left - row_sum_right) / 2
        hh = (row_gap_left - row_gap_right) / 2
        details.append((lh, hl, hh))
        low = (row_sum_left + row_sum_right) / 2
    return low, details


def difference(input: Tensor, target: Tensor) -> Tensor:
    """input - target in float32, or in float64 if one of them is; a uint8 target is divided by 255 first."""
    dtype = torch.float64 if torch.float64 in (input.dtype, target.dtype) else torch.float32
    subtrahend = target.to(dtype)
    if target.dtype == torch.uint8:
        subtrahend = subtrahend / 255
    return input.to(dtype) - subtrahend


def weighted_l1(low: Tensor, details: Sequence[DetailBands], scales: Sequence[float]) -> Tensor:
    """(B,): for each image, the sum over the sub-bands of scale * sum|band|, in the order of `scales`.

    `scales` holds (LH, HL, HH) of level 1 (finest), of level 2, ..., and LL last: 3 * levels + 1 numbers.
    """
    bands = [*(band for level in details for band in level), low]
    terms = [band.abs().sum(dim=(1, 2, 3)) * scale for band, scale in zip(bands, scales, strict=True)]
    return torch.stack(terms).sum(dim=0)


def haar_l1_reference(input: Tensor, target: Tensor, scales: Sequence[float], levels: int) -> Tensor:
    """(B,): :func:`weighted_l1` of the Haar transform of the difference; differentiable in `input`."""
    low, details = haar_analysis(difference(input, target), levels)
    return weighted_l1(low, details, scales)
