"""The wavelet loss of MTKD: L1 distance of the Haar coefficients of two images, over one or more levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Reduction = Literal["mean", "sum", "image"]
DetailBands = tuple[Tensor, Tensor, Tensor]

_FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def haar_dwt2(x: Tensor, levels: int = 1) -> tuple[Tensor, list[DetailBands]]:
    """Orthonormal 2-D Haar transform of each plane.

    Every 2x2 block of a level, with ``a b`` above ``c d``, becomes one coefficient in each of four sub-bands:

    ========  =====================  ============================  ===================
    sub-band  coefficient            responds to                   name in PyWavelets
    ========  =====================  ============================  ===================
    LL        ``(a + b + c + d)/2``  twice the mean of the block   cA
    LH        ``(a + b - c - d)/2``  the upper row minus lower     cH
    HL        ``(a - b + c - d)/2``  the left column minus right   cV
    HH        ``(a - b - c + d)/2``  the diagonals                 cD
    ========  =====================  ============================  ===================

    Some literature exchanges the names LH and HL; the formulas above are what holds here. LL is the image of the next
    level, so LL of level L is 2**L times the mean of a 2**L x 2**L block. The sum of squares is preserved.

    Args:
        x: (B, C, H, W), floating point, H and W divisible by 2**levels. The arithmetic is in the dtype of ``x``.
        levels: number of levels, at least 1.

    Returns:
        LL of the last level, (B, C, H / 2**levels, W / 2**levels), and a list with (LH, HL, HH) of the levels 1
        (finest) to ``levels``, those of level k being (B, C, H / 2**k, W / 2**k).

    Raises:
        ValueError: ``x`` is not 4-D, is empty, is not floating point or is not divisible; ``levels`` is below 1.
    """
    _check_levels(levels)
    _check_float("x", x)
    _check_shape("x", x, levels)
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


def haar_l1_loss(
    input: Tensor,
    target: Tensor,
    levels: int = 1,
    weights: Sequence[float] | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """L1 distance of the Haar coefficients of ``input`` and ``target``.

    With the sub-bands of :func:`haar_dwt2`, d = input - target and w = ``weights``::

        loss = sum over k = 1..levels of  w[k-1] * mean |LH_k(d), HL_k(d), HH_k(d)|   (three bands, one mean)
             + w[levels] * mean |LL_levels(d)|

    The transform is linear, so the difference is transformed instead of the two images. The mean of the details of
    level k has the denominator 3*B*C*H*W / 4**k, that of LL has B*C*H*W / 4**levels.

    Args:
        input: (B, C, H, W), the image being trained, for instance RGB around [0, 1]. float16, bfloat16, float32 or
            float64. H and W are divisible by 2**levels.
        target: same shape and device, detached here: no gradient reaches it. One of the dtypes of ``input``, not
            necessarily the same one, or uint8, which is divided by 255.
        levels: depth of the transform, at least 1. The paper uses 1.
        weights: levels + 1 finite numbers >= 0: one for the details of each level 1 (finest) to ``levels``, then one
            for LL. None means 1 for each, as in the paper.
        reduction: "mean" is the formula. "sum" has sums in the place of its means. "image" has means over one image
            each (denominators without B), so that its mean over the batch is the value of "mean".

    Returns:
        Scalar for "mean" and "sum", (B,) for "image". The arithmetic and the result are float32, or float64 if a
        float64 tensor is given; half precision is converted before it is subtracted. The gradient has the dtype of
        ``input``, and a coefficient that is equal in both images adds exactly 0 to it.

    Raises:
        ValueError: for shapes, dtypes, devices, levels, weights or a reduction other than those above.

    Source: Jiang et al., MTKD (ECCV 2024, arXiv 2404.09571), the loss between student and aggregated image. Their
    released code takes the LL term of one image of the batch; here it covers all of them.
    """
    band_weights = _check_settings(levels, weights, reduction)
    _check_pair(input, target, levels)

    dtype = torch.float64 if torch.float64 in (input.dtype, target.dtype) else torch.float32
    reference = target.detach().to(dtype)
    if target.dtype == torch.uint8:
        reference = reference / 255
    low, details = haar_dwt2(input.to(dtype) - reference, levels)

    terms = []
    for weight, bands in zip(band_weights, [*details, (low,)], strict=True):
        magnitude = torch.stack([band.abs().sum(dim=(1, 2, 3)) for band in bands]).sum(dim=0)
        count = 1 if reduction == "sum" else sum(band[0].numel() for band in bands)
        terms.append(magnitude * (weight / count))
    per_image = torch.stack(terms).sum(dim=0)

    if reduction == "image":
        return per_image
    return per_image.sum() if reduction == "sum" else per_image.mean()


class HaarL1Loss(nn.Module):
    """:func:`haar_l1_loss` as a module, with the same arguments. Wrong settings raise ValueError when it is built."""

    def __init__(self, levels: int = 1, weights: Sequence[float] | None = None, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.weights = _check_settings(levels, weights, reduction)
        self.levels = levels
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return haar_l1_loss(input, target, self.levels, self.weights, self.reduction)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, weights={self.weights}, reduction={self.reduction!r}"


def _check_levels(levels: int) -> None:
    if levels < 1:
        raise ValueError(f"levels is {levels}: the transform needs at least 1 level")


def _check_settings(levels: int, weights: Sequence[float] | None, reduction: str) -> tuple[float, ...]:
    _check_levels(levels)
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}: choose one of {', '.join(map(repr, get_args(Reduction)))}")
    if weights is None:
        return (1.0,) * (levels + 1)
    if len(weights) != levels + 1:
        raise ValueError(
            f"weights has {len(weights)} numbers: with levels={levels} give {levels + 1}, one for the details of each "
            f"level 1..{levels}, then one for LL"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(
            f"weights is {tuple(weights)}: each must be finite and not negative; use 0 to leave a band out"
        )
    return tuple(float(weight) for weight in weights)


def _check_float(name: str, x: Tensor) -> None:
    if x.dtype not in _FLOAT_DTYPES:
        raise ValueError(
            f"{name} has dtype {x.dtype}: it must be one of {', '.join(map(str, _FLOAT_DTYPES))}; "
            "convert it first (uint8 images: x.float() / 255)"
        )


def _check_shape(name: str, x: Tensor, levels: int) -> None:
    shape = tuple(x.shape)
    if x.ndim != 4:
        raise ValueError(
            f"{name} has shape {shape}: it must be (B, C, H, W); add a batch axis with x[None] if it lacks one"
        )
    if x.numel() == 0:
        raise ValueError(
            f"{name} has shape {shape}, which holds no values: the mean over it is undefined; skip empty batches"
        )
    block = 2**levels
    height, width = shape[2:]
    if height % block or width % block:
        fitting = height // block * block, width // block * block
        mend = f"crop to {fitting[0]}x{fitting[1]}" if all(fitting) else f"use at least {block}x{block}"
        raise ValueError(
            f"{name} is {height}x{width} (HxW): with levels={levels} both must be divisible by {block}; "
            f"{mend} or use fewer levels"
        )


def _check_pair(input: Tensor, target: Tensor, levels: int) -> None:
    _check_float("input", input)
    if target.dtype != torch.uint8:
        _check_float("target", target)
    if input.shape != target.shape:
        raise ValueError(
            f"input has shape {tuple(input.shape)}, target {tuple(target.shape)}: they must be equal; "
            "nothing is broadcast, so bring the target to the shape of the input"
        )
    if input.device != target.device:
        raise ValueError(
            f"input is on {input.device}, target on {target.device}: move the target with target.to(input.device)"
        )
    _check_shape("input", input, levels)
