"""Scales of charts, and the points that are drawn on them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

Points = Sequence[tuple[float, float]]

MOST_POINTS = 250
"""Of a line; more would be narrower than a pixel."""


class Axis:
    """A scale from values to units of the drawing.

    Args:
        low, high: what is shown at the ends, in values.
        start, end: the places of both.
    """

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        if high <= low:  # a single value lies in the middle
            low, high = (low / 1.1, high * 1.1) if log else (low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1))
        self.low, self.high, self.log = low, high, log
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self._start + (value - low) / (high - low) * (self._end - self._start)

    def ticks(self, count: int = 4) -> list[float]:
        """About `count` round values within the scale."""
        found = log_ticks(self.low, self.high) if self.log else []
        return found if len(found) > 1 else linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` (4 or more) multiples of 1, 2 or 5 times a power of ten from `low` to `high`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    # Below half of the width, so that there are two at least.
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= 0.8 * rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`; of more than two decades, powers of ten alone."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 200 else (1,)
    found = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [tick for tick in found if low <= tick <= high]


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: the last x and the mean y of equally many neighbours."""
    size = -(-len(points) // most) if points else 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def smoothed(points: Points) -> list[tuple[float, float]]:
    """Each y as the mean of a twentieth of all points around it; fewer than 40 points stay as they are."""
    if len(points) < 40:
        return list(points)
    reach = max(1, len(points) // 40)
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    smooth = []
    for i, (x, _) in enumerate(points):
        within = min(reach, i, len(points) - 1 - i)
        smooth.append((x, (sums[i + within + 1] - sums[i - within]) / (2 * within + 1)))
    return smooth


def finite(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(y)]


def number_text(value: float) -> str:
    """`500k`, `1.5M`, `0.02`."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
