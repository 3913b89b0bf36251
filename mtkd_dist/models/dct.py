"""The 2-D discrete cosine transform of small windows, as two products with a fixed matrix."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

DCTNorm = Literal["none", "ortho"]


class WindowDCT(nn.Module):
    """DCT-II of (M,n,n,C) windows over both window axes, per channel, and its exact inverse.

    norm "none": the unnormalised transform (`torch-dct` and SciPy by default), in which the first coefficient of an
    8x8 window is 256 times its mean. norm "ortho": orthonormal, 8 times the mean.
    """

    basis: Tensor
    inverse: Tensor

    def __init__(self, window: int, norm: DCTNorm) -> None:
        super().__init__()
        basis, inverse = _dct_matrices(window, norm)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("inverse", inverse, persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """(M,n,n,C) pixels -> (M,n,n,C) coefficients, lowest frequency first."""
        return _both_axes(self.basis, windows)

    def invert(self, coefficients: Tensor) -> Tensor:
        """(M,n,n,C) coefficients -> (M,n,n,C) pixels."""
        return _both_axes(self.inverse, coefficients)


def _both_axes(matrix: Tensor, windows: Tensor) -> Tensor:
    count, side, _, channels = windows.shape
    rows = matrix @ windows.reshape(count, side, side * channels)
    columns = matrix @ rows.reshape(count * side, side, channels)
    return columns.reshape(count, side, side, channels)


def _dct_matrices(size: int, norm: DCTNorm) -> tuple[Tensor, Tensor]:
    """(size,size) float32 matrices of the DCT-II and of its inverse, computed in float64."""
    index = torch.arange(size, dtype=torch.float64)
    cosines = 2 * torch.cos(torch.pi * (2 * index + 1) * index[:, None] / (2 * size))
    gains = torch.full((size, 1), (2 * size) ** 0.5, dtype=torch.float64)
    gains[0] = (4 * size) ** 0.5
    orthonormal = cosines / gains
    basis, inverse = (cosines, (orthonormal / gains).T) if norm == "none" else (orthonormal, orthonormal.T)
    return basis.float(), inverse.float().contiguous()
