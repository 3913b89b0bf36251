"""The Haar L1 loss on a CPU: the gradient is made while the coefficients are at hand, in a few passes over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mtkd_kernels.haar_l1_reference import difference


def haar_l1_cpu(input: Tensor, target: Tensor, scales: Sequence[float], levels: int) -> Tensor:
    """(B,): the same values as `haar_l1_reference`. The gradient is one product in the backward pass."""
    loss: Tensor = _HaarL1.apply(input, target, scales, levels)
    return loss


class _HaarL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, scales: Sequence[float], levels: int) -> Tensor:
        low = difference(input, target).contiguous()
        losses, signs = [], []
        for level in range(levels):
            # Without the factor 1/2 of each level, the coefficients of level k are 2**k times the orthonormal ones.
            bands, low = _analysis(low)
            weights = bands.new_tensor(scales[3 * level : 3 * level + 3]).div_(2 ** (level + 1)).view(3, 1, 1, 1, 1)
            losses.append((bands.abs().sum(dim=(2, 3, 4), keepdim=True) * weights).sum(dim=(0, 2, 3, 4)))
            if ctx.needs_input_grad[0]:
                signs.append(bands.sign_().mul_(weights))
        weight = scales[-1] / 2**levels
        losses.append(low.abs().sum(dim=(1, 2, 3)) * weight)
        if ctx.needs_input_grad[0]:
            gradient = low.sign_().mul_(weight)
            for bands in reversed(signs):
                gradient = _synthesis(bands, gradient)
            ctx.save_for_backward(gradient.to(input.dtype) if input.dtype == torch.float64 else gradient)
            ctx.dtype = input.dtype
        return torch.stack(losses).sum(dim=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0].view(-1, 1, 1, 1)).to(ctx.dtype), None, None, None


def _analysis(x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> the sums (LH, HL, HH) as (3, B, C, H/2, W/2), and that of LL."""
    batch, channels, height, width = x.shape
    upper, lower = x[..., ::2, :], x[..., 1::2, :]
    total, gap = upper + lower, upper - lower
    bands = x.new_empty(3, batch, channels, height // 2, width // 2)
    torch.add(gap[..., ::2], gap[..., 1::2], out=bands[0])
    torch.sub(total[..., ::2], total[..., 1::2], out=bands[1])
    torch.sub(gap[..., ::2], gap[..., 1::2], out=bands[2])
    return bands, total[..., ::2] + total[..., 1::2]


def _synthesis(bands: Tensor, low: Tensor) -> Tensor:
    """The transpose of `_analysis`."""
    lh, hl, hh = bands
    batch, channels, height, width = low.shape
    image = low.new_empty(batch, channels, 2 * height, 2 * width)
    upper, lower = low + lh, low - lh
    total, gap = hl + hh, hl - hh
    torch.add(upper, total, out=image[..., ::2, ::2])
    torch.sub(upper, total, out=image[..., ::2, 1::2])
    torch.add(lower, gap, out=image[..., 1::2, ::2])
    torch.sub(lower, gap, out=image[..., 1::2, 1::2])
    return image
