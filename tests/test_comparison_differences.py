from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats

from mtkd_dist.report.comparison import Comparison
from mtkd_dist.report.comparison_differences import Difference, Interval, against, difference, intervals
from tests.comparisons import EDSR, SETS, cell, comparison, scores

# Seeds outside, images inside; hundredths of a dB, so that equal means are exactly equal.
DIFFERENCES = arrays(
    np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-300, 300).map(lambda n: n / 128)
)


def _difference(
    grid: Comparison, method: str = "mtkd", baseline: str = "scratch", test_set: str = "Set5"
) -> Difference:
    return difference(grid, method, baseline, EDSR, test_set, "psnr_y")


def _grid(differences: np.ndarray, images: list[str], seeds: list[int]) -> Comparison:
    """`mtkd` is better than `scratch` by `differences` (seeds, images)."""
    cells = []
    for seed, row in zip(seeds, differences, strict=True):
        base = {image: (30.0 + len(image) + seed, 0.8) for image in images}
        better = {image: (psnr + row[i], ssim) for i, (image, (psnr, ssim)) in enumerate(base.items())}
        cells += [cell("scratch", seed=seed, scored={"Set5": base}), cell("mtkd", seed=seed, scored={"Set5": better})]
    return Comparison(("scratch", "mtkd"), (EDSR,), seeds, cells)


@given(DIFFERENCES)
def test_differences_are_antisymmetric(values: np.ndarray) -> None:
    grid = _grid(values, [f"image {i}" for i in range(values.shape[1])], list(range(values.shape[0])))
    one, other = _difference(grid), _difference(grid, "scratch", "mtkd")
    assert one.mean == -(other.mean or 0.0)
    for interval, mirrored in zip(one.intervals, other.intervals, strict=True):
        assert interval == (None if mirrored is None else (-mirrored.high, -mirrored.low))


@given(DIFFERENCES, st.randoms(use_true_random=False))
def test_the_order_of_images_and_seeds_plays_no_part(values: np.ndarray, random: Random) -> None:
    images, seeds = [f"image {i}" for i in range(values.shape[1])], list(range(values.shape[0]))
    columns, rows = list(range(len(images))), list(range(len(seeds)))
    random.shuffle(columns)
    random.shuffle(rows)
    one = _difference(_grid(values, images, seeds))
    other = _difference(_grid(values[rows][:, columns], [images[i] for i in columns], [seeds[i] for i in rows]))
    assert one.mean == pytest.approx(other.mean, abs=1e-9)
    for interval, moved in zip(one.intervals, other.intervals, strict=True):
        assert interval == (None if moved is None else pytest.approx(moved, abs=1e-9))


@given(DIFFERENCES)
def test_the_joint_interval_holds_both_others(values: np.ndarray) -> None:
    joint, *others = intervals(values)
    for other in others:
        if joint is not None and other is not None:
            assert joint.low <= other.low < other.high <= joint.high


def test_identical_students_differ_by_zero_without_an_interval() -> None:
    same = scores(lambda name, image: 30.0 + len(image))
    cells = [cell(method, seed=seed, scored=same) for method in ("scratch", "mtkd") for seed in (1, 2)]
    one = _difference(Comparison(("scratch", "mtkd"), (EDSR,), (1, 2), cells))
    assert (one.mean, one.intervals) == (0.0, (None, None, None))


def test_the_interval_over_images_is_students_t_of_their_means_over_seeds() -> None:
    values = np.array([[0.1, 0.3, 0.2, 0.5], [0.2, 0.1, 0.2, 0.6]])
    expected = stats.ttest_1samp(values.mean(axis=0), 0).confidence_interval(0.95)
    assert intervals(values).images == pytest.approx(tuple(expected))


def test_the_interval_over_seeds_is_students_t_of_their_means_over_images() -> None:
    values = np.array([[0.1, 0.3], [0.2, 0.1], [0.2, 0.6]])
    expected = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.95)
    assert intervals(values).seeds == pytest.approx(tuple(expected))


def test_half_widths_are_added_as_squares() -> None:
    joint, images, seeds = intervals(np.array([[0.1, 0.3, 0.2], [0.3, 0.1, 0.7]]))
    assert joint is not None
    assert images is not None
    assert seeds is not None
    widths = [one.high - one.low for one in (joint, images, seeds)]
    assert widths[0] == pytest.approx(math.hypot(*widths[1:]))


def test_one_seed_says_nothing_of_another_training() -> None:
    joint, images, seeds = intervals(np.array([[0.1, 0.3, 0.2]]))
    assert (joint, seeds) == (None, None)
    assert images is not None


def test_one_image_says_nothing_of_other_photographs() -> None:
    joint, images, seeds = intervals(np.array([[0.1], [0.3], [0.2]]))
    assert (joint, images) == (None, None)
    assert seeds is not None


def test_the_same_difference_everywhere_has_no_interval() -> None:
    assert intervals(np.full((3, 5), 0.1)) == (None, None, None)


def test_where_only_images_differ_the_joint_interval_is_theirs() -> None:
    joint, images, seeds = intervals(np.tile([0.1, 0.3, 0.2], (3, 1)))
    assert seeds is None
    assert joint == images is not None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_difference_that_is_not_finite_has_no_interval(value: float) -> None:
    assert intervals(np.array([[0.1, value], [0.2, 0.3]])) == (None, None, None)


def _coverage(over_seeds: float, over_images: float, rest: float) -> np.ndarray:
    """Share of 2000 made-up comparisons (3 seeds, 24 images) in which each interval holds the true difference."""
    random, true = np.random.default_rng(0), 0.1
    held = np.zeros(3)
    for _ in range(2000):
        values = true + over_seeds * random.normal(size=(3, 1)) + over_images * random.normal(size=(1, 24))
        found = intervals(values + rest * random.normal(size=(3, 24)))
        held += [one is not None and one.low <= true <= one.high for one in found]
    return held / 2000


@pytest.mark.parametrize("spread", [(0.02, 0.05, 0.02), (0.05, 0.02, 0.02), (0.02, 0.1, 0.02), (0.0, 0.05, 0.05)])
def test_the_joint_interval_holds_the_true_difference_whatever_dominates(spread: tuple[float, float, float]) -> None:
    assert 0.93 < _coverage(*spread)[0] <= 1.0


def test_the_joint_interval_is_not_wider_than_it_must_be_where_only_seeds_count() -> None:
    assert 0.93 < _coverage(0.05, 0.0, 0.0)[0] < 0.97


def test_over_images_alone_a_new_training_would_often_disagree() -> None:
    assert _coverage(0.05, 0.02, 0.02)[1] < 0.5


def test_where_no_seed_matters_the_interval_over_images_holds_in_95_of_100() -> None:
    assert 0.93 < _coverage(0.0, 0.05, 0.05)[1] < 0.97


def test_only_seeds_that_both_have_are_compared() -> None:
    grid = comparison(without=[("mtkd", EDSR, 1), ("scratch", EDSR, 2)])
    one = _difference(grid)
    alone = _difference(comparison(seeds=(3,)))
    assert (one.seeds, one.images, one.mean) == (1, len(SETS["Set5"]), alone.mean)


def test_without_a_common_seed_there_is_no_difference() -> None:
    grid = comparison(seeds=(1, 2), without=[("mtkd", EDSR, 1), ("scratch", EDSR, 2)])
    assert (_difference(grid).mean, _difference(grid).seeds) == (None, 0)


def test_scores_of_a_seed_meet_those_of_the_same_seed() -> None:
    # Seeds differ by whole dB and methods by a tenth: paired wrongly, the interval would be wide.
    values = np.array([[0.1, 0.12, 0.1], [0.1, 0.11, 0.12], [0.11, 0.12, 0.1]])
    grid = _grid(values, ["a", "bb", "cccc"], [1, 5, 9])
    one = _difference(replace(grid, cells=sorted(grid.cells, key=lambda c: -c.seed if c.method == "mtkd" else c.seed)))
    assert one.intervals.joint is not None
    assert 0.08 < one.intervals.joint.low < one.intervals.joint.high < 0.14


def test_scores_of_an_image_meet_those_of_the_same_image() -> None:
    images = {"a": (30.0, 0.8), "b": (35.0, 0.9)}
    better = {image: (psnr + 0.1, ssim) for image, (psnr, ssim) in reversed(images.items())}
    cells = [cell("scratch", scored={"Set5": images}), cell("mtkd", scored={"Set5": better})]
    one = _difference(Comparison(("scratch", "mtkd"), (EDSR,), (1,), cells))
    assert one.mean == pytest.approx(0.1)
    # The same for both images, which only pairs of one image show.
    assert one.intervals.images is None


def test_an_interval_that_touches_zero_does_not_exclude_it() -> None:
    assert [Interval(*ends).excludes_zero for ends in ((0.0, 1.0), (-1.0, 0.0), (0.1, 1.0), (-1.0, -0.1))] == [
        False,
        False,
        True,
        True,
    ]


def test_every_method_meets_scratch_and_mtkd_meets_every_other() -> None:
    assert list(against(["scratch", "mean", "mtkd"]).values()) == [
        [("mean", "scratch"), ("mtkd", "scratch")],
        [("mtkd", "scratch"), ("mtkd", "mean")],
    ]


@pytest.mark.parametrize(
    ("methods", "base"), [(["kd", "mtkd", "mean"], "mean"), (["kd", "at"], "kd"), (["mtkd", "scratch"], "scratch")]
)
def test_without_scratch_the_baseline_is_mean_and_then_the_first(methods: list[str], base: str) -> None:
    assert {pair[1] for pair in next(iter(against(methods).values()))} == {base}


def test_no_pair_is_shown_in_two_tables_that_are_the_same() -> None:
    assert list(against(["mean", "mtkd"]).values()) == [[("mtkd", "mean")]]


def test_one_method_has_nothing_to_be_compared_with() -> None:
    assert against(["mtkd"]) == {}
