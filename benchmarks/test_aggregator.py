"""What the DCT costs in a layer of the aggregator: the time of the layer without it beside the time with it.

    PYTHONPATH=kernels pytest benchmarks/test_aggregator.py --write

Two layers as the network alternates them, one shifted and one not, of the paper's width and window. The DCT and its
inverse are replaced by nothing in the twin. Both run in turns, and on a CPU it is CPU time that counts (of all threads
together), because the machine may be shared. On a GPU also bf16. Prints one Markdown table, with the least and the
median of each; `--write` puts it into `benchmarks/results/aggregator.md`.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.results_table import Table
from mtkd_dist.models.aggregator import DCTSwinLayer
from mtkd_dist.pools.device import use_threads

WIDTH, HEADS, WINDOW = 96, 6, 8
GRIDS = {"16 x 32x32": (16, 32, 32, WIDTH), "4 x 64x64": (4, 64, 64, WIDTH)}
ROUNDS, WARM_UP = 12, 2

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is measured instead")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class NoDCT(nn.Module):
    """Leaves windows as they are."""

    def forward(self, windows: Tensor) -> Tensor:
        return windows

    def invert(self, coefficients: Tensor) -> Tensor:
        return coefficients


@pytest.fixture(scope="module")
def table() -> Table:
    table = Table(
        "aggregator",
        ["device", "denormals", "LR grid", "pass", "two layers with DCT, ms", "without, ms", "share of the DCT"],
    )
    if not torch.cuda.is_available():
        table.left_out["GPU"] = "no CUDA device: not yet measured"
    return table


def twins(device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """The two layers with the DCT, and the same without."""
    torch.manual_seed(0)
    with_dct = nn.Sequential(
        *(DCTSwinLayer(WIDTH, HEADS, WINDOW, 2, "none", "separate", shift, drop_path=0.0) for shift in (0, WINDOW // 2))
    ).to(device, dtype)
    without = copy.deepcopy(with_dct)
    for layer in without:
        layer.dct = NoDCT()
    return with_dct, without


def run(layers: nn.Module, tokens: Tensor, backward: bool) -> None:
    if backward:
        layers(tokens.detach().requires_grad_()).sum().backward()
    else:
        with torch.no_grad():
            layers(tokens)


def gpu_seconds() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def compare(table: Table, name: list[str], grid: str, dtype: torch.dtype, clock: Callable[[], float]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = torch.randn(GRIDS[grid], device=device, dtype=dtype)
    pair = twins(device, dtype)
    for backward in (False, True):
        times: tuple[list[float], list[float]] = ([], [])
        for round_number in range(ROUNDS + WARM_UP):
            for layers, measured in zip(pair, times, strict=True):
                began = clock()
                run(layers, tokens, backward)
                if round_number >= WARM_UP:
                    measured.append(1e3 * (clock() - began))
        (with_dct, without), (with_median, without_median) = map(min, times), map(statistics.median, times)
        table.add(
            *name,
            grid,
            "forward + backward" if backward else "forward",
            f"{with_dct:.1f} / {with_median:.1f}",
            f"{without:.1f} / {without_median:.1f}",
            f"{1 - without / with_dct:.1%} / {1 - without_median / with_median:.1%}",
        )
        assert pair[0](tokens).isfinite().all()


@on_cpu
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_on_a_cpu_as_a_worker_sets_it_up(table: Table, threads: int, grid: str) -> None:
    use_threads(threads)
    compare(table, [f"CPU, {threads} thread(s), float32", "flushed"], grid, torch.float32, clock=time.process_time)


@on_cpu
def test_on_a_cpu_that_computes_with_denormals(table: Table) -> None:
    """What a program of one's own pays that does not call `torch.set_flush_denormal(True)`."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    compare(table, ["CPU, 1 thread(s), float32", "kept"], "16 x 32x32", torch.float32, clock=time.process_time)


@needs_gpu
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(table: Table, dtype: torch.dtype, grid: str) -> None:
    compare(table, [f"GPU, {str(dtype).removeprefix('torch.')}", "–"], grid, dtype, clock=gpu_seconds)
