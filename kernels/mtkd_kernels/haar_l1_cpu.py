"""The Haar L1 loss on a CPU: the gradient is made while the coefficients are at hand, in a few passes over memory.

Memory costs a CPU more than the arithmetic, fresh memory most (the system hands it out page by page). So the forward
half of the transform has two buffers a level, which the backward half uses again, and no step reads every other number.
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
            image, last = low, level == levels - 1
            halves = _analysis(image)
            # Without the factor 1/2 of each level, the coefficients of level k are 2**k times the orthonormal ones.
            lh, hl, hh = (scale / 2 ** (level + 1) for scale in scales[3 * level : 3 * level + 3])
            ll = scales[-1] / 2**levels if last else 0.0
            weights = image.new_tensor([[ll, hl], [lh, hh]])
            if not last:
                low = halves[0, ..., ::2].contiguous()
            sums = torch.view_as_real(_pairs(torch.abs(halves, out=image.view_as(halves))).sum(dim=(2, 3, 4)))
            losses.append((sums * weights[:, None, :]).sum(dim=(0, 2)))
            done.append((image, halves, weights))
        if ctx.needs_input_grad[0]:
            for image, halves, weights in reversed(done):
                halves.sign_().mul_(weights.repeat(1, halves.shape[-1] // 2).view(2, 1, 1, 1, -1))
                if halves is not done[-1][1]:
                    halves[0, ..., ::2] = low
                low = _synthesis(halves, image)
            ctx.save_for_backward(low)
            ctx.dtype = input.dtype
        return torch.stack(losses).sum(dim=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grads[0].view(-1, 1, 1, 1)).to(ctx.dtype), None, None, None


def _analysis(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (2, B, C, H/2, W), the pairs (LL, -HL) and (LH, -HH) of each 2x2 block side by side."""
    batch, channels, height, width = image.shape
    upper, lower = image[..., ::2, :], image[..., 1::2, :]
    halves = image.new_empty(2, batch, channels, height // 2, width)
    torch.add(upper, lower, out=halves[0])
    torch.sub(upper, lower, out=halves[1])
    # As complex numbers, pairs of columns are next to each other for the vector units: (a, b) -> (a + b, b - a).
    _pairs(halves).mul_(1 - 1j)
    return halves


def _synthesis(halves: Tensor, image: Tensor) -> Tensor:
    """The transpose of `_analysis`, into `image`; `halves` is overwritten too."""
    _pairs(halves).mul_(1 + 1j)
    torch.add(halves[0], halves[1], out=image[..., ::2, :])
    torch.sub(halves[0], halves[1], out=image[..., 1::2, :])
    return image


def _pairs(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
