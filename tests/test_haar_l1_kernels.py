"""The fused kernels without a GPU: run by Triton's interpreter, and compiled ahead of time for A100 and H100/H200.

Both, because the interpreter accepts code that the compiler rejects, and says nothing of registers and layouts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the fused kernels need Triton, which exists for Linux only")

from mtkd_kernels.haar_l1_launch import tiling, tiling_nhwc
from mtkd_kernels.haar_l1_nhwc_triton import haar_l1_backward_nhwc, haar_l1_forward_nhwc
from mtkd_kernels.haar_l1_triton import haar_l1_backward, haar_l1_forward
from tests.aot import compile_kernel

HERE = Path(__file__).parent
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "u8": 1}
# A training crop, and a width that 16 does not divide.
WIDTHS = (192, 200)


def types_of(levels: int, input: str, target: str) -> dict[str, str]:
    integers = ("BLOCK_ROWS", "WIDTH_UNITS", "partial_stride", "channels", "upstream_stride", "BLOCK_COLUMNS")
    return {
        "input_ptr": f"*{input}",
        "target_ptr": f"*{target}",
        "gradient_ptr": f"*{input}",
        "codes_ptr": "*u8" if levels == 1 else "*i32",
        **dict.fromkeys(("low_ptr", "partial_ptr", "upstream_ptr"), "*fp32"),
        **dict.fromkeys(integers, "i32"),
    }


def test_kernels_are_right_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "haar_l1_interpreted.py")]
    result = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=HERE.parent, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout, result.stdout


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(("input", "target"), [("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "u8")])
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("width", WIDTHS)
def test_kernels_compile_to_wide_accesses_without_spills(
    width: int, levels: int, input: str, target: str, architecture: int
) -> None:
    tiles = tiling(width, width, levels, BYTES[input])
    types = types_of(levels, input, target)
    constants = {"L": levels, "LAST": True, **tiles.constants}
    forward = compile_kernel(haar_l1_forward, types, {**constants, "DIFFER": True}, architecture, tiles.warps)
    backward = compile_kernel(haar_l1_backward, types, constants, architecture, tiles.warps)
    for kernel in (forward, backward):
        assert kernel.spills == 0
        assert kernel.layout_conversions == 0
    vectors = forward.loads[::2] if target == "u8" else forward.loads
    assert set(vectors) == set(backward.stores) == {128}


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("input", ["fp32", "bf16"])
def test_kernels_that_hand_ll_to_a_second_launch_are_as_good(input: str, architecture: int) -> None:
    tiles = tiling(192, 192, 3, BYTES[input])
    constants = {"L": 3, "LAST": False, **tiles.constants}
    types = types_of(3, input, input)
    forward = compile_kernel(haar_l1_forward, types, {**constants, "DIFFER": True}, architecture, tiles.warps)
    backward = compile_kernel(haar_l1_backward, types, constants, architecture, tiles.warps)
    assert forward.spills == backward.spills == 0
    assert forward.layout_conversions == backward.layout_conversions == 0
    assert set(forward.loads) == set(backward.stores) == {128}


@pytest.mark.parametrize(("input", "architecture"), [("fp32", 90), ("bf16", 80)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_channels_last_kernels_compile_without_spills(input: str, levels: int, architecture: int) -> None:
    tiles = tiling_nhwc(3, 192 * 192 // 4**levels)
    types = types_of(levels, input, input)
    constants = {"L": levels, "LAST": True, **tiles.constants}
    forward = compile_kernel(haar_l1_forward_nhwc, types, {**constants, "DIFFER": True}, architecture, tiles.warps)
    backward = compile_kernel(haar_l1_backward_nhwc, types, constants, architecture, tiles.warps)
    assert forward.spills == backward.spills == 0
    assert forward.layout_conversions == backward.layout_conversions == 0


@pytest.mark.parametrize("levels", [1, 2])
def test_sizes_of_one_compile(levels: int) -> None:
    """Triton turns an integer argument of 1 into a constant: an image of one block, with one channel."""
    sizes = {"BLOCK_ROWS": 1, "channels": 1, "partial_stride": 1, "upstream_stride": 1}
    tiles = tiling(2**levels, 2**levels, levels, 4)
    nchw = {"L": levels, "LAST": True, "WIDTH_UNITS": 1, **sizes, **tiles.constants}
    nhwc = {"L": levels, "LAST": True, "BLOCK_COLUMNS": 1, **sizes, **tiling_nhwc(1, 1).constants}
    for kernel, constants in (
        (haar_l1_forward, {**nchw, "DIFFER": True}),
        (haar_l1_backward, nchw),
        (haar_l1_forward_nhwc, {**nhwc, "DIFFER": True}),
        (haar_l1_backward_nhwc, nhwc),
    ):
        arguments = {name: value for name, value in constants.items() if name in kernel.arg_names}
        assert compile_kernel(kernel, types_of(levels, "fp32", "fp32"), arguments, 90, 4).spills == 0


def test_offset_of_a_plane_is_64_bits_wide() -> None:
    """Planes beyond 2**31 pixels of the batch: the plane's number is widened before it is multiplied."""
    tiles = tiling(192, 192, 1, 4)
    compiled = compile_kernel(
        haar_l1_backward, types_of(1, "fp32", "fp32"), {"L": 1, "LAST": True, **tiles.constants}, 90, 4
    )
    products = [line for line in compiled.ttir.splitlines() if "arith.muli" in line and "i64" in line]
    assert len(products) >= 4  # plane * height * width, for pixels and for codes
