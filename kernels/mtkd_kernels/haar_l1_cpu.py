"""The Haar L1 loss on a CPU: the gradient is made while the coefficients are at hand, in a few passes over memory.

Fresh memory costs a CPU more than the arithmetic (the system hands it out page by page), so every buffer of the forward
half of the transform is used again by the backward half.
"""

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
        losses, done = [], []
        for level in range(levels):
            # Without the factor 1/2 of each level, the coefficients of level k are 2**k times the orthonormal ones.
            image = low
            quarters, bands, low = _analysis(image)
            weights = bands.new_tensor(scales[3 * level : 3 * level + 3]) / 2 ** (level + 1)
            losses.append(weights @ torch.abs(bands, out=quarters[:3]).sum(dim=(2, 3, 4)))
            done.append((image, quarters, bands, weights))
        weight = scales[-1] / 2**levels
        losses.append(low.abs().sum(dim=(1, 2, 3)) * weight)
        if ctx.needs_input_grad[0]:
            gradient = low.sign_().mul_(weight)
            for image, quarters, bands, weights in reversed(done):
                gradient = _synthesis(bands.sign_().mul_(weights.view(3, 1, 1, 1, 1)), gradient, quarters, image)
            ctx.save_for_backward(gradient)
            ctx.dtype = input.dtype
        return torch.stack(losses).sum(dim=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0].view(-1, 1, 1, 1)).to(ctx.dtype), None, None, None


def _analysis(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C, H, W) -> a spare buffer (4, B, C, H/2, W/2); the sums LH, HL, HH as (3, B, C, H/2, W/2), and that of LL."""
    batch, channels, height, width = image.shape
    upper, lower = image[..., ::2, :], image[..., 1::2, :]
    halves = image.new_empty(2, batch, channels, height // 2, width)
    total, gap = torch.add(upper, lower, out=halves[0]), torch.sub(upper, lower, out=halves[1])
    bands = image.new_empty(3, batch, channels, height // 2, width // 2)
    torch.add(gap[..., ::2], gap[..., 1::2], out=bands[0])
    torch.sub(total[..., ::2], total[..., 1::2], out=bands[1])
    torch.sub(gap[..., ::2], gap[..., 1::2], out=bands[2])
    low = total[..., ::2] + total[..., 1::2]
    return halves.view(4, *bands.shape[1:]), bands, low


def _synthesis(bands: Tensor, low: Tensor, quarters: Tensor, image: Tensor) -> Tensor:
    """The transpose of `_analysis`, into `image`; `quarters` is overwritten too."""
    lh, hl, hh = bands
    upper, lower = torch.add(low, lh, out=quarters[0]), torch.sub(low, lh, out=quarters[1])
    total, gap = torch.add(hl, hh, out=quarters[2]), torch.sub(hl, hh, out=quarters[3])
    torch.add(upper, total, out=image[..., ::2, ::2])
    torch.sub(upper, total, out=image[..., ::2, 1::2])
    torch.add(lower, gap, out=image[..., 1::2, ::2])
    torch.sub(lower, gap, out=image[..., 1::2, 1::2])
    return image
