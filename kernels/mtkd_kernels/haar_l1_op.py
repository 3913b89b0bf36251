"""The fused Haar L1 loss as a pair of torch operators, and the launches of its Triton kernels.

One launch does up to 3 levels. For more, it writes LL_3 (1/64 of the pixels, float32), from which a second, small
launch goes on; the backward pass takes the same launches the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from mtkd_kernels.haar_l1_triton import haar_l1_backward, haar_l1_forward

LEVELS_PER_LAUNCH = 3


class Tiling(NamedTuple):
    """The compile-time shape of a launch: a program is `rows` x `threads_across` threads of whole blocks each."""

    rows: int
    threads_across: int
    vector: int
    unit: int
    warps: int

    @property
    def constants(self) -> dict[str, int]:
        return {"R": self.rows, "CB": self.threads_across, "VEC": self.vector, "UNIT": self.unit}

    def programs(self, height: int, width: int, levels: int) -> int:
        """Programs for one plane."""
        step = max(2**levels, self.vector)
        return triton.cdiv(height, self.rows * 2**levels) * triton.cdiv(width, self.threads_across * step)


def tiling(height: int, width: int, levels: int, element_size: int) -> Tiling:
    """For planes of one launch of `levels` levels, and elements of `element_size` bytes.

    A vector is 16 bytes wherever the width is a multiple of it (then all rows start at a multiple of it), and a thread
    owns exactly one vector of each row and chunk: any other ratio makes the compiler move data between threads. Of the
    shapes of 128 and of 32 threads, the one that hangs over the edges of the plane least is taken, and of equal ones
    the widest.
    """
    unit = 16
    while width % unit:
        unit //= 2
    vector = min(16 // element_size, max(unit, 4 if levels > 1 else 2))
    shapes = [
        Tiling(32 * warps // across, across, vector, unit, warps) for warps in (4, 1) for across in (32, 16, 8, 4)
    ]

    def covered(shape: Tiling) -> int:
        return shape.programs(height, width, levels) * shape.warps

    return min(shapes, key=covered)


class Launch(NamedTuple):
    """One launch of the kernels, and where its parts lie in the buffers of the operator."""

    levels: int
    planes: int
    height: int
    width: int
    last: bool
    scales: list[float]
    codes: slice  # of the bytes of signs

    @property
    def codes_dtype(self) -> torch.dtype:
        return torch.uint8 if self.levels == 1 else torch.int32

    @property
    def low_shape(self) -> tuple[int, int, int]:
        return self.planes, self.height // 2**self.levels, self.width // 2**self.levels

    def weights(self) -> list[float]:
        """lh1, hl1, hh1, ..., hh3, ll of the kernels; unused ones are 0."""
        return [*self.scales[:-1], *[0.0] * (3 * (LEVELS_PER_LAUNCH - self.levels)), self.scales[-1]]


def launches(shape: Sequence[int], levels: int, scales: Sequence[float]) -> list[Launch]:
    """The launches of the forward pass in order; `scales` as in `weighted_l1`, for orthonormal coefficients."""
    batch, channels, height, width = shape
    scaled = [scale / 2 ** (i // 3 + 1) for i, scale in enumerate(scales[:-1])]
    done, start, result = 0, 0, []
    while done < levels:
        now = min(LEVELS_PER_LAUNCH, levels - done)
        last = done + now == levels
        details = scaled[3 * done : 3 * (done + now)]
        low = scales[-1] / 2**levels if last else 0.0
        stop = start + batch * channels * (height // 2**done) * (width // 2**done) // 4
        result.append(
            Launch(
                now, batch * channels, height // 2**done, width // 2**done, last, [*details, low], slice(start, stop)
            )
        )
        done, start = done + now, (stop + 15) // 16 * 16
    return result


def codes_bytes(shape: Sequence[int], levels: int) -> int:
    """Bytes of signs that are kept for the backward pass: a quarter of the pixels, and of each further launch."""
    return launches(shape, levels, [0.0] * (3 * levels + 1))[-1].codes.stop


def _device(x: Tensor) -> Any:
    """Triton launches on the current device, which need not be that of the tensors."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


@torch.library.custom_op("mtkd::haar_l1_forward", mutates_args=())
def _forward(
    input: Tensor, target: Tensor, scales: Sequence[float], levels: int, per_image: bool
) -> tuple[Tensor, Tensor]:
    """-> the loss, () or (B,) float32, and the signs for the backward pass, bytes."""
    input, target = input.contiguous(), target.contiguous()
    plan = launches(input.shape, levels, scales)
    element_size = max(input.element_size(), target.element_size())
    tilings = [
        tiling(launch.height, launch.width, launch.levels, element_size if i == 0 else 4)
        for i, launch in enumerate(plan)
    ]
    programs = [t.programs(run.height, run.width, run.levels) for t, run in zip(tilings, plan, strict=True)]
    batch, channels = input.shape[:2]
    partial = input.new_empty((batch * channels, sum(programs)), dtype=torch.float32)
    codes = input.new_empty(plan[-1].codes.stop, dtype=torch.uint8)
    source, column = input, 0
    with _device(input):
        for launch, shape, count in zip(plan, tilings, programs, strict=True):
            low = partial if launch.last else input.new_empty(launch.low_shape, dtype=torch.float32)
            haar_l1_forward[(launch.planes * count,)](
                source,
                target,
                codes[launch.codes].view(launch.codes_dtype),
                low,
                partial[:, column:],
                launch.height // 2**launch.levels,
                launch.width // shape.unit,
                partial.shape[1],
                *launch.weights(),
                L=launch.levels,
                LAST=launch.last,
                DIFFER=source is input,
                num_warps=shape.warps,
                **shape.constants,
            )
            source, column = low, column + count
    return (partial.view(batch, -1).sum(dim=1) if per_image else partial.sum()), codes


@torch.library.custom_op("mtkd::haar_l1_backward", mutates_args=())
def _backward(
    codes: Tensor,
    upstream: Tensor,
    scales: Sequence[float],
    levels: int,
    per_image: bool,
    shape: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """-> the gradient, of the given shape and dtype."""
    gradient = codes.new_empty(tuple(shape), dtype=dtype)
    stride = upstream.stride(0) if per_image else 0
    plan = launches(shape, levels, scales)
    low = upstream
    with _device(codes):
        for launch in reversed(plan):
            output = gradient
            if launch is not plan[0]:
                output = codes.new_empty((launch.planes, launch.height, launch.width), dtype=torch.float32)
            tiles = tiling(launch.height, launch.width, launch.levels, output.element_size())
            haar_l1_backward[(launch.planes * tiles.programs(launch.height, launch.width, launch.levels),)](
                codes[launch.codes].view(launch.codes_dtype),
                low,
                upstream,
                output,
                launch.height // 2**launch.levels,
                launch.width // tiles.unit,
                shape[1],
                stride,
                *launch.weights(),
                L=launch.levels,
                LAST=launch.last,
                num_warps=tiles.warps,
                **tiles.constants,
            )
            low = output
    return gradient


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
) -> Tensor:
    return codes.new_empty(tuple(shape), dtype=dtype)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, _, ctx.scales, ctx.levels, ctx.per_image = inputs
    ctx.shape, ctx.dtype = input.shape, input.dtype
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


def _gradient(ctx: Any, upstream: Tensor | None, _codes: None) -> tuple[Tensor | None, None, None, None, None]:
    if upstream is None:
        return None, None, None, None, None
    (codes,) = ctx.saved_tensors
    gradient = _backward(codes, upstream, ctx.scales, ctx.levels, ctx.per_image, ctx.shape, ctx.dtype)
    return gradient, None, None, None, None


_forward.register_autograd(_gradient, setup_context=_setup)


def haar_l1_fused(input: Tensor, target: Tensor, scales: Sequence[float], levels: int, per_image: bool) -> Tensor:
    """The loss of `haar_l1_reference`, (B,) if `per_image` and else its sum, (), in one kernel a direction.

    Args:
        input: (B, C, H, W), float16, bfloat16 or float32; H and W divisible by 2**levels.
        target: the same shape and device; one of these dtypes or uint8, which is divided by 255.
        scales: 3 * levels + 1 factors, in the order of `weighted_l1`.

    It runs where Triton runs: on a GPU, and on a CPU under Triton's interpreter (for tests).
    """
    loss: Tensor = _forward(input, target, list(scales), levels, per_image)[0]
    return loss
