"""How long work takes on a device: a few seconds of measuring, after what is slow only once is over."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

WARM_UPS = 2
"""First calls that are not counted: they allocate, choose algorithms, compile."""
MOST_CALLS = 30


def median_seconds(
    call: Callable[[], object], budget_seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Median time of a call; at least one is timed, and none is begun after `budget_seconds`.

    Where the first call alone uses up the budget, it is the only warm-up.

    Args:
        call: returns when the work is done, also that of a GPU.
        clock: seconds, as `time.perf_counter`.
    """
    began = clock()
    for _ in range(WARM_UPS):
        call()
        if clock() - began > budget_seconds:
            break
    times: list[float] = []
    began = clock()
    while not times or (len(times) < MOST_CALLS and clock() - began < budget_seconds):
        before = clock()
        call()
        times.append(clock() - before)
    return statistics.median(times)


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(images, seconds) of one or two batch sizes, the smaller first -> seconds of a step and of each image.

    Neither is below 0: where noise would have it so, everything is taken to be each image's.
    """
    images, seconds = points[-1]
    each = seconds / images
    if len(points) > 1:
        first_images, first_seconds = points[0]
        slope = (seconds - first_seconds) / (images - first_images)
        if 0 < slope < each:
            return seconds - slope * images, slope
    return 0.0, each


def serial_share(one: float, many: float, threads: int) -> float:
    """Amdahl: seconds with one and with several threads -> share of the work that threads do not shorten, in 0..1."""
    if threads < 2 or many >= one:
        return 1.0
    return max(0.0, (many / one - 1 / threads) / (1 - 1 / threads))
