"""Paired differences between methods with 95 % intervals: which of them chance does not explain. Pure.

A difference is taken between two students of the same network, seed and image, so that what an image is worth, and
what a seed's starting weights and crops are worth, drops out. Two things are left to chance, and each has an interval:

- over images (of the means over seeds): would other photographs of this kind agree, for these trained networks? Seeds
  are averaged first, because scores of one image are not independent of each other.
- over seeds (of the means over images): would another training agree, on these photographs?

With three seeds the first alone would promise too much: it knows nothing of the luck of a training. The second alone
takes the photographs for the whole world. What a reader wants to know is whether both would agree. Seeds and images are
crossed random effects, so the joint interval adds the squares of both half-widths: t² s² / n of images and of seeds,
each with its own t. It holds both others, and is rather too wide than too narrow: for two independent means Banerjee
(Sankhya 22, 1960) proved it, and what neither seed nor image explains counts in both. The usual degrees of freedom of
Welch and Satterthwaite would be less cautious, but their interval can exclude zero where neither of the others does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from mtkd_dist.report.comparison import Comparison

CONFIDENCE = 0.95
# In dB, and in SSIM: differences that are the same up to here have no spread but that of float64.
_SAME = 1e-9


class Interval(NamedTuple):
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class Intervals(NamedTuple):
    """None where there is no such interval: fewer than two of what it is over, the same value everywhere, or NaN.

    `joint` needs two seeds and two images; it is there as long as one of the others is.
    """

    joint: Interval | None
    images: Interval | None
    seeds: Interval | None


@dataclass(frozen=True)
class Difference:
    """`method` minus `baseline` for one student and set, in the unit of `metric` (`psnr_y` in dB, `ssim_y`).

    `mean` is None where no seed has both. `seeds` and `images` say how many pairs there are: their product.
    """

    method: str
    baseline: str
    student: str
    test_set: str
    metric: str
    mean: float | None
    intervals: Intervals
    seeds: int
    images: int


def difference(
    comparison: Comparison, method: str, baseline: str, student: str, test_set: str, metric: str
) -> Difference:
    """From the seeds that both methods have, and the images that count (`Comparison.images`)."""
    of_baseline = comparison.seeds_scored(baseline, student, test_set)
    seeds = [seed for seed in comparison.seeds_scored(method, student, test_set) if seed in of_baseline]
    names = (method, baseline, student, test_set, metric)
    if not seeds or not comparison.images[test_set]:
        return Difference(*names, None, Intervals(None, None, None), 0, 0)
    with np.errstate(invalid="ignore"):
        values = comparison.scores(method, student, seeds, test_set, metric) - comparison.scores(
            baseline, student, seeds, test_set, metric
        )
    return Difference(*names, float(values.mean()), intervals(values), *values.shape)


def intervals(differences: np.ndarray) -> Intervals:
    """95 % intervals of the mean of an array (seeds, images); see the top of this file."""
    if not np.isfinite(differences).all():
        return Intervals(None, None, None)
    middle = float(differences.mean())
    over_images = _half_width(differences.mean(axis=0))
    over_seeds = _half_width(differences.mean(axis=1))
    joint = math.hypot(over_images, over_seeds) if min(differences.shape) > 1 else 0.0
    return Intervals(
        *(Interval(middle - half, middle + half) if half else None for half in (joint, over_images, over_seeds))
    )


def against(methods: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Title -> pairs (method, baseline): every method against the baseline, and MTKD against every other one.

    The baseline is `scratch`; where it is not compared `mean`, the control that MTKD must beat; else the first method.
    """
    if len(methods) < 2:
        return {}
    base = baseline(methods)
    tables = {f"Every method minus {base}": [(method, base) for method in methods if method != base]}
    if "mtkd" in methods:
        pairs = [("mtkd", method) for method in methods if method != "mtkd"]
        if not set(pairs) <= {pair for table in tables.values() for pair in table}:
            tables["mtkd minus every other method"] = pairs
    return tables


def baseline(methods: Sequence[str]) -> str:
    """See `against`."""
    return next((name for name in ("scratch", "mean") if name in methods), methods[0])


def _half_width(values: np.ndarray) -> float:
    """Of the interval of a mean, by Student's t; 0 where the values say nothing of their spread."""
    freedom = len(values) - 1
    if not freedom or np.ptp(values) < _SAME:
        return 0.0
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2)) * error
