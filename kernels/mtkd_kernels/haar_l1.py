"""The wavelet loss of MTKD: L1 distance of the Haar coefficients of two images, over one or more levels.

The public function checks its arguments, turns weights and reduction into one factor for each sub-band, and hands over
to the fastest path that the tensors allow: fused Triton kernels on a GPU, a gradient made in the forward pass on a CPU,
plain torch anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mtkd_kernels.haar_l1_cpu import haar_l1_cpu
from mtkd_kernels.haar_l1_reference import DetailBands, haar_analysis, haar_l1_reference
from mtkd_kernels.wavelets import filters, wavelet_l1

try:
    from mtkd_kernels.haar_l1_op import haar_l1_fused

    FUSED_DTYPES: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32)
except ModuleNotFoundError as error:  # Triton exists for Linux only; without it a GPU takes the plain torch path.
    if error.name != "triton":
        raise
    FUSED_DTYPES = ()

Reduction = Literal["mean", "sum", "image"]
LevelWeight = float | Sequence[float]

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
    return haar_analysis(x, levels)


def haar_l1_loss(
    input: Tensor,
    target: Tensor,
    levels: int = 1,
    weights: Sequence[LevelWeight] | None = None,
    reduction: Reduction = "mean",
    wavelet: str = "haar",
) -> Tensor:
    """L1 distance of the Haar coefficients of ``input`` and ``target``.

    With the sub-bands of :func:`haar_dwt2`, d = input - target and w = ``weights``::

        loss = sum over k = 1..levels of  mean of w_LH |LH_k(d)|, w_HL |HL_k(d)|, w_HH |HH_k(d)|   (three bands, one
               mean), with (w_LH, w_HL, w_HH) = w[k-1]
             + w[levels] * mean |LL_levels(d)|

    The transform is linear, so the difference is transformed instead of the two images. The mean of the details of
    level k has the denominator 3*B*C*H*W / 4**k, that of LL has B*C*H*W / 4**levels.

    Args:
        input: (B, C, H, W), the image being trained, for instance RGB around [0, 1]. float16, bfloat16, float32 or
            float64. H and W are divisible by 2**levels.
        target: same shape and device, detached here: no gradient reaches it. One of the dtypes of ``input``, not
            necessarily the same one, or uint8, which is divided by 255.
        levels: depth of the transform, at least 1. The paper uses 1.
        weights: levels + 1 entries: one for the details of each level 1 (finest) to ``levels``, then a number for LL.
            The entry of a level is a number, or three of them for (LH, HL, HH); a number w means (w, w, w). All are
            finite and >= 0; 0 leaves a sub-band out. None means 1 for each, as in the paper.
        reduction: "mean" is the formula. "sum" has sums in the place of its means. "image" has means over one image
            each (denominators without B), so that its mean over the batch is the value of "mean".
        wavelet: "haar", or any discrete wavelet of PyWavelets ("db2", "sym4", "bior2.2", ...), of which LH, HL, HH, LL
            are cH, cV, cD, cA of ``pywt.wavedec2(..., mode="periodization")``. Only "haar" is fused: the others write
            their coefficients to memory, and need PyWavelets.

    Returns:
        Scalar for "mean" and "sum", (B,) for "image". The arithmetic and the result are float32, or float64 if a
        float64 tensor is given; half precision is converted before it is subtracted. The gradient has the dtype of
        ``input``, and a coefficient that is equal in both images adds exactly 0 to it.

        A NaN or infinite pixel makes the loss NaN or infinite ("image": the loss of its image alone), without a check
        that would stop a GPU; a coefficient that is NaN adds 0 to the gradient, as with ``torch.abs``.

    Raises:
        ValueError: for shapes, dtypes, devices, levels, weights, a reduction or a wavelet other than those above.

    Paths: on a GPU with Triton, Haar on float16, bfloat16 and float32 is one kernel a direction and 3 levels, which
    keeps 2 bits a coefficient for the backward pass (`kernels/README.md`); partial sums are added in a fixed order, so
    results repeat bit by bit. float64 there, and devices other than CPU and CUDA, take plain torch operations.
    Contiguous tensors are read in place, and so are channels_last ones; other strides, and a target whose layout is not
    that of ``input``, are copied first.

    Source: Jiang et al., MTKD (ECCV 2024, arXiv 2404.09571), the loss between student and aggregated image. Their
    released code takes the LL term of one image of the batch; here it covers all of them.
    """
    entries = _check_settings(levels, weights, reduction)
    _check_pair(input, target, levels)

    target = target.detach()
    scales = _scales(entries, input.shape, reduction)
    if wavelet != "haar":
        per_image = wavelet_l1(input, target, scales, levels, wavelet)
    elif input.is_cuda and input.dtype in FUSED_DTYPES and target.dtype in (*FUSED_DTYPES, torch.uint8):
        return haar_l1_fused(input, target, scales, levels, per_image=reduction == "image")
    elif input.device.type == "cpu" and not torch.compiler.is_compiling():
        per_image = haar_l1_cpu(input, target, scales, levels)
    else:
        per_image = haar_l1_reference(input, target, scales, levels)
    return per_image if reduction == "image" else per_image.sum()


class HaarL1Loss(nn.Module):
    """:func:`haar_l1_loss` as a module, with the same arguments. Wrong settings raise ValueError when it is built."""

    def __init__(
        self,
        levels: int = 1,
        weights: Sequence[LevelWeight] | None = None,
        reduction: Reduction = "mean",
        wavelet: str = "haar",
    ) -> None:
        super().__init__()
        _check_settings(levels, weights, reduction)
        if wavelet != "haar":
            filters(wavelet)
        self.weights = tuple(_entry(weight) for weight in weights) if weights is not None else (1.0,) * (levels + 1)
        self.levels = levels
        self.reduction = reduction
        self.wavelet = wavelet

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return haar_l1_loss(input, target, self.levels, self.weights, self.reduction, self.wavelet)

    def extra_repr(self) -> str:
        settings = f"levels={self.levels}, weights={self.weights}, reduction={self.reduction!r}"
        return settings if self.wavelet == "haar" else f"{settings}, wavelet={self.wavelet!r}"


def _scales(weights: Sequence[Sequence[float]], shape: Sequence[int], reduction: Reduction) -> list[float]:
    """The factor of sum|band| for (LH, HL, HH) of each level and for LL: weight / denominator of its mean."""
    if reduction == "sum":
        return [weight for entry in weights for weight in entry]
    batch, channels, height, width = shape
    values = channels * height * width * (1 if reduction == "image" else batch)
    levels = len(weights) - 1
    scales = [weight / (3 * values / 4**k) for k, entry in enumerate(weights[:-1], 1) for weight in entry]
    return [*scales, weights[-1][0] / (values / 4**levels)]


def _check_levels(levels: int) -> None:
    if levels < 1:
        raise ValueError(f"levels is {levels}: the transform needs at least 1 level")


def _check_settings(
    levels: int, weights: Sequence[LevelWeight] | None, reduction: str
) -> tuple[tuple[float, ...], ...]:
    """Three weights for each level, then (weight of LL,)."""
    _check_levels(levels)
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}: choose one of {', '.join(map(repr, get_args(Reduction)))}")
    if weights is None:
        return ((1.0,) * 3,) * levels + ((1.0,),)
    if len(weights) != levels + 1:
        raise ValueError(
            f"weights has {len(weights)} numbers: with levels={levels} give {levels + 1}, one for the details of each "
            f"level 1..{levels} (or three, for LH, HL and HH), then one for LL"
        )
    *details, low = weights
    if isinstance(low, Sequence):
        raise ValueError(f"the last of weights is {low}: LL is one sub-band and has one number")
    entries: list[tuple[float, ...]] = []
    for level, weight in enumerate(details, 1):
        entry = tuple(weight) if isinstance(weight, Sequence) else (weight,) * 3
        if len(entry) != 3:
            raise ValueError(f"weights of level {level} is {entry}: give one number, or three for LH, HL and HH")
        entries.append(entry)
    entries.append((low,))
    if not all(math.isfinite(weight) and weight >= 0 for entry in entries for weight in entry):
        raise ValueError(
            f"weights is {tuple(weights)}: each must be finite and not negative; use 0 to leave a band out"
        )
    return tuple(tuple(float(weight) for weight in entry) for entry in entries)


def _entry(weight: LevelWeight) -> LevelWeight:
    return tuple(map(float, weight)) if isinstance(weight, Sequence) else float(weight)


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
