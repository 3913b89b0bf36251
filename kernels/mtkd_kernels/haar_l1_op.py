"""The fused Haar L1 loss as a pair of torch operators, and the launches of its Triton kernels.

One launch does up to 3 levels. For more, it writes LL_3 (1/64 of the pixels, float32), from which a second, small
launch goes on; the backward pass takes the same launches the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from mtkd_kernels.haar_l1_launch import codes_bytes, is_nhwc, launches
from mtkd_kernels.haar_l1_nhwc_triton import haar_l1_backward_nhwc, haar_l1_forward_nhwc
from mtkd_kernels.haar_l1_triton import haar_l1_backward, haar_l1_forward


def _device(x: Tensor) -> Any:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@torch.library.custom_op("mtkd::haar_l1_forward", mutates_args=())
def _forward(
    input: Tensor, target: Tensor, scales: Sequence[float], levels: int, per_image: bool
) -> tuple[Tensor, Tensor]:
    """-> the loss, () or (B,) float32, and the signs for the backward pass, bytes."""
    nhwc = is_nhwc(input)
    layout = torch.channels_last if nhwc else torch.contiguous_format
    source, target = input.contiguous(memory_format=layout), target.contiguous(memory_format=layout)
    plan = launches(input.shape, levels, scales, nhwc, max(input.element_size(), target.element_size()))
    kernel = haar_l1_forward_nhwc if nhwc else haar_l1_forward
    # One row of partial sums for each image, in the order of planes and tiles, or of tiles.
    partial = input.new_empty((plan[0].groups, sum(launch.programs for launch in plan)), dtype=torch.float32)
    codes = input.new_empty(plan[-1].codes.stop, dtype=torch.uint8)
    column = 0
    with _device(input):
        for i, launch in enumerate(plan):
            low = partial if launch.last else input.new_empty(launch.low_values, dtype=torch.float32)
            kernel[(launch.groups * launch.programs,)](
                source,
                target,
                codes[launch.codes].view(launch.codes_dtype),
                low,
                partial[:, column:],
                *launch.sizes,
                partial.shape[1],
                *launch.weights,
                L=launch.levels,
                LAST=launch.last,
                DIFFER=i == 0,
                num_warps=launch.warps,
                **launch.constants,
            )
            source, column = low, column + launch.programs
    return (partial.view(input.shape[0], -1).sum(dim=1) if per_image else partial.sum()), codes


@torch.library.custom_op("mtkd::haar_l1_backward", mutates_args=())
def _backward(
    codes: Tensor,
    upstream: Tensor,
    scales: Sequence[float],
    levels: int,
    per_image: bool,
    shape: Sequence[int],
    dtype: torch.dtype,
    nhwc: bool,
) -> Tensor:
    """-> the gradient, of the given shape and dtype, in the layout of the input."""
    gradient = _empty_gradient(codes, shape, dtype, nhwc)
    plan = launches(shape, levels, scales, nhwc, gradient.element_size())
    kernel = haar_l1_backward_nhwc if nhwc else haar_l1_backward
    low = upstream
    with _device(codes):
        for i, launch in reversed(list(enumerate(plan))):
            output = gradient if i == 0 else codes.new_empty(plan[i - 1].low_values, dtype=torch.float32)
            kernel[(launch.groups * launch.programs,)](
                codes[launch.codes].view(launch.codes_dtype),
                low,
                upstream,
                output,
                *launch.sizes,
                *(() if nhwc else (shape[1],)),
                upstream.stride(0) if per_image else 0,
                *launch.weights,
                L=launch.levels,
                LAST=launch.last,
                num_warps=launch.warps,
                **launch.constants,
            )
            low = output
    return gradient


def _empty_gradient(codes: Tensor, shape: Sequence[int], dtype: torch.dtype, nhwc: bool) -> Tensor:
    layout = torch.channels_last if nhwc else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=dtype, device=codes.device, memory_format=layout)


@_forward.register_fake
def _(input: Tensor, target: Tensor, scales: Sequence[float], levels: int, per_image: bool) -> tuple[Tensor, Tensor]:
    loss = input.new_empty((input.shape[0],) if per_image else (), dtype=torch.float32)
    return loss, input.new_empty((codes_bytes(input.shape, levels),), dtype=torch.uint8)


@_backward.register_fake
def _(
    codes: Tensor,
    upstream: Tensor,
    scales: Sequence[float],
    levels: int,
    per_image: bool,
    shape: Sequence[int],
    dtype: torch.dtype,
    nhwc: bool,
) -> Tensor:
    return _empty_gradient(codes, shape, dtype, nhwc)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, _, ctx.scales, ctx.levels, ctx.per_image = inputs
    ctx.shape, ctx.dtype, ctx.nhwc = input.shape, input.dtype, is_nhwc(input)
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, upstream: Tensor | None, _codes: None) -> tuple[Tensor | None, None, None, None, None]:
    if upstream is None:
        return None, None, None, None, None
    (codes,) = ctx.saved_tensors
    gradient = _backward(codes, upstream, ctx.scales, ctx.levels, ctx.per_image, ctx.shape, ctx.dtype, ctx.nhwc)
    return gradient, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_setup)


def haar_l1_fused(input: Tensor, target: Tensor, scales: Sequence[float], levels: int, per_image: bool) -> Tensor:
    """The loss of `haar_l1_reference`, (B,) if `per_image` and else its sum, (), in one kernel a direction.

    Args:
        input: (B, C, H, W), float16, bfloat16 or float32; H and W divisible by 2**levels. Contiguous or channels_last
            tensors are read in place, others are copied.
        target: the same shape and device; one of these dtypes or uint8, which is divided by 255. Copied if its layout
            is not that of `input`.
        scales: 3 * levels + 1 factors, in the order of `weighted_l1`.

    It runs where Triton runs: on a GPU, and on a CPU under Triton's interpreter (for tests).
    """
    loss: Tensor = _forward(input, target, list(scales), levels, per_image)[0]
    return loss
