"""How the fused Haar L1 kernels are launched: which levels together, in programs of which shape, on which buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS_PER_LAUNCH = 3


@dataclass(frozen=True)
class Tiling:
    """The shape of a program, and the numbers of programs for one plane (or one image, channels_last)."""

    constants: dict[str, int]
    warps: int
    programs: int


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, and where its parts lie in the buffers of the operator."""

    levels: int
    last: bool
    groups: int  # planes, or images if channels_last; each has `programs` programs
    sizes: tuple[int, ...]  # the arguments that give the size of a group
    low_values: int  # of LL of all groups
    weights: tuple[float, ...]  # lh1, hl1, hh1, ..., hh3, ll of the kernels
    codes: slice  # of the bytes of signs
    tiling: Tiling

    @property
    def codes_dtype(self) -> torch.dtype:
        return torch.uint8 if self.levels == 1 else torch.int32

    @property
    def constants(self) -> dict[str, int]:
        return self.tiling.constants

    @property
    def programs(self) -> int:
        return self.tiling.programs

    @property
    def warps(self) -> int:
        return self.tiling.warps


def is_nhwc(x: Tensor) -> bool:
    """channels_last, and not contiguous at the same time (as with one channel)."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def tiling(height: int, width: int, levels: int, element_size: int) -> Tiling:
    """For NCHW planes of one launch of `levels` levels, and elements of `element_size` bytes.

    A vector is 16 bytes wherever the width is a multiple of it (then all rows start at a multiple of it), and a thread
    owns exactly one vector of each row and chunk: any other ratio makes the compiler move data between threads. Of the
    shapes of 128 and of 32 threads, the one that hangs over the edges of the plane least is taken, and of equal ones
    the widest.
    """
    unit = 16
    while width % unit:
        unit //= 2
    vector = min(16 // element_size, max(unit, 4 if levels > 1 else 2))
    block, step = 2**levels, max(2**levels, vector)
    shapes = []
    for warps in (4, 1):
        for across in (32, 16, 8, 4):
            rows = 32 * warps // across
            programs = -(height // -(rows * block)) * -(width // -(across * step))
            shapes.append(Tiling({"R": rows, "CB": across, "VEC": vector, "UNIT": unit}, warps, programs))
    return min(shapes, key=lambda shape: shape.programs * shape.warps)


def tiling_nhwc(channels: int, blocks: int) -> Tiling:
    """For channels_last images of `blocks` blocks: a thread owns one channel of one block."""
    warps = 4
    across = 4
    while across < min(channels, 64):
        across *= 2
    rows = 32 * warps // across
    return Tiling({"R": rows, "CB": across}, warps, -(blocks // -rows) * -(channels // -across))


def launches(shape: Sequence[int], levels: int, scales: Sequence[float], nhwc: bool, element_size: int) -> list[Launch]:
    """The launches of the forward pass in order; `scales` as in `weighted_l1`, for orthonormal coefficients.

    The kernels leave out the factor 1/2 of each level, so the weights of level k are divided by 2**k. The first launch
    reads elements of `element_size` bytes, the others read LL in float32.
    """
    batch, channels, height, width = shape
    scaled = [scale / 2 ** (i // 3 + 1) for i, scale in enumerate(scales[:-1])]
    spans = code_spans(shape, levels)
    result = []
    for i, span in enumerate(spans):
        done = LEVELS_PER_LAUNCH * i
        now, last = min(LEVELS_PER_LAUNCH, levels - done), i == len(spans) - 1
        rows, columns = height // 2 ** (done + now), width // 2 ** (done + now)
        unused = [0.0] * (3 * (LEVELS_PER_LAUNCH - now))
        weights = (*scaled[3 * done : 3 * (done + now)], *unused, scales[-1] / 2**levels if last else 0.0)
        sizes: tuple[int, ...]
        if nhwc:
            tiles = tiling_nhwc(channels, rows * columns)
            groups, sizes = batch, (rows, columns, channels)
        else:
            tiles = tiling(height // 2**done, width // 2**done, now, element_size if i == 0 else 4)
            groups, sizes = batch * channels, (rows, width // 2**done // tiles.constants["UNIT"])
        low_values = batch * channels * rows * columns
        result.append(Launch(now, last, groups, sizes, low_values, weights, span, tiles))
    return result


def code_spans(shape: Sequence[int], levels: int) -> list[slice]:
    """The bytes of signs of each launch: 2 bits for each of its pixels, aligned to 16 bytes."""
    batch, channels, height, width = shape
    spans, start = [], 0
    for done in range(0, levels, LEVELS_PER_LAUNCH):
        stop = start + batch * channels * (height // 2**done) * (width // 2**done) // 4
        spans.append(slice(start, stop))
        start = (stop + 15) // 16 * 16
    return spans


def codes_bytes(shape: Sequence[int], levels: int) -> int:
    """Bytes of signs that are kept for the backward pass: a quarter of the pixels, and of each further launch."""
    stop: int = code_spans(shape, levels)[-1].stop
    return stop
