"""Charts of a report: what is on which scale, and what is drawn."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.report.page.charts import (
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    bands_chart,
    line_chart,
    placed_labels,
    shares_chart,
    size_chart,
)
from mtkd_dist.report.page.scales import Axis, linear_ticks, log_ticks, number_text, smoothed, thinned


def parsed(chart: str) -> ET.Element:
    """Well formed, and every place within the drawing."""
    found = ET.fromstring(chart)
    assert found.get("viewBox", "").startswith(f"0 0 {WIDTH} ")
    return found


def path_of(chart: str, kind: str) -> list[list[tuple[float, float]]]:
    paths = [one.get("d", "") for one in parsed(chart).iter("path") if one.get("class") == kind]
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", d)] for d in paths]


def texts(chart: str) -> list[str]:
    return [one.text or "" for one in parsed(chart).iter("text")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (31.8, 33.1, [32, 32.5, 33]),
        (0, 600, [0, 200, 400, 600]),
        (-3, 3, [-2, 0, 2]),
    ],
)
def test_ticks_are_round_numbers_within_the_scale(low: float, high: float, ticks: list[float]) -> None:
    assert linear_ticks(low, high, 4) == ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_whatever_the_scale_it_has_some_ticks_and_not_many(low: float, width: float) -> None:
    ticks = linear_ticks(low, low + width, 4)
    assert 2 <= len(ticks) <= 6
    assert all(low - 1e-6 * width <= tick <= low + width * 1.000001 for tick in ticks)


def test_a_logarithmic_scale_has_ticks_of_its_own() -> None:
    assert log_ticks(0.015, 0.3) == [0.02, 0.05, 0.1, 0.2]
    assert log_ticks(1e-4, 10) == [1e-4, 1e-3, 1e-2, 0.1, 1, 10]
    axis = Axis(0.01, 1, 100, 0, log=True)
    assert [axis(value) for value in (0.01, 0.1, 1)] == pytest.approx([100, 50, 0])
    # Too narrow for two of them: those of a linear one.
    assert len(Axis(0.021, 0.026, 100, 0, log=True).ticks()) > 1


@pytest.mark.parametrize("log", [False, True])
def test_a_single_value_lies_in_the_middle(log: bool) -> None:
    assert Axis(3.0, 3.0, 0, 100, log)(3.0) == pytest.approx(50)


def test_many_points_become_few_with_the_mean_of_their_neighbours() -> None:
    points = [(float(x), float(x % 2)) for x in range(1, 10_001)]
    few = thinned(points, 100)
    assert few == [(100.0 * n, 0.5) for n in range(1, 101)]
    assert thinned(points[:5], 100) == points[:5]
    assert thinned([]) == []


def test_smoothing_keeps_a_line_and_calms_noise() -> None:
    line = [(float(x), 2.0 * x) for x in range(200)]
    assert [y for _, y in smoothed(line)] == pytest.approx([y for _, y in line])
    noise = [(float(x), (-1.0) ** x) for x in range(200)]
    assert max(abs(y) for _, y in smoothed(noise)[10:-10]) < 0.2
    assert smoothed(line[:10]) == line[:10]


def test_numbers_are_short() -> None:
    assert [number_text(v) for v in (0, 0.02, 250, 1000, 12_500, 500_000, 1.5e6)] == [
        *("0", "0.02", "250", "1k", "12.5k", "500k", "1.5M")
    ]


def test_a_line_reaches_from_its_first_to_its_last_step() -> None:
    (line,) = path_of(line_chart("t", [Series("a", [(50, 30.0), (100, 32.0)], "student")], "steps", end=200), "line")
    middle, half = (LEFT + WIDTH - RIGHT) / 2, (WIDTH - RIGHT - LEFT) / 4
    assert [x for x, _ in line] == pytest.approx([middle - half, middle], abs=0.1)
    assert line[0][1] > line[1][1]  # higher values lie higher


def test_noise_is_pale_behind_its_mean_and_falls_on_a_logarithmic_scale() -> None:
    points = [(float(x), (0.02 + 0.5 * math.exp(-x / 20)) * (1.2 if x % 2 else 0.8)) for x in range(200)]
    chart = line_chart("t", [Series("a", points, "student")], "steps", end=200, noisy=True)
    (raw,), (line,) = path_of(chart, "raw"), path_of(chart, "line")

    def roughness(path: list[tuple[float, float]]) -> float:
        return sum(abs(a[1] - b[1]) for a, b in itertools.pairwise(path[100:]))

    assert roughness(line) < 0.3 * roughness(raw)
    assert {"0.05", "0.1", "0.2"} <= set(texts(chart))


def test_scores_far_below_the_others_do_not_flatten_them() -> None:
    scores = [(1.0, 6.0), *((float(n), 30 + n / 10) for n in range(2, 21))]
    (line,) = path_of(line_chart("t", [Series("a", scores, "student", marks=True)], "steps", end=20), "line")
    assert line[0][1] > HEIGHT  # below the chart
    assert line[3][1] - line[-1][1] > 0.5 * HEIGHT


def test_what_is_not_a_number_is_left_out() -> None:
    chart = line_chart("t", [Series("a", [(1, math.inf), (2, 1.0), (3, 2.0)], "student")], "steps", end=3)
    assert [len(line) for line in path_of(chart, "line")] == [2]


def test_shares_fill_the_chart_and_reach_back_to_the_start() -> None:
    shares = {"working-share": [(5, 0.75), (10, 0.5)], "starved-share": [(5, 0.25), (10, 0.5)]}
    below, above = path_of(shares_chart("t", shares, "steps", end=10, height=HEIGHT), "area")
    assert min(x for x, _ in below) == LEFT
    assert min(y for _, y in above) == TOP
    assert below[:3] == list(reversed(above[3:]))  # the second lies on the first


def test_bands_are_connected_within_their_groups_alone() -> None:
    series = [Series("a", [(float(i), 1.0 + i) for i in range(4)], "student")]
    chart = bands_chart("t", series, ["LL", "LH", "HL", "HH"], {"coarse": 1, "fine": 3})
    assert [len(line) for line in path_of(chart, "line")] == [1, 3]
    assert texts(chart)[-4:] == ["LL", "LH", "HL", "HH"]


@given(st.lists(st.tuples(st.floats(45, 345), st.floats(15, 180)), min_size=1, max_size=6, unique=True))
def test_a_label_lies_within_the_drawing(marks: list[tuple[float, float]]) -> None:
    names = {f"model {i}": mark for i, mark in enumerate(marks)}
    for x, y in placed_labels(names).values():
        assert x >= LEFT - 0.01
        assert x + 6.1 * 7 <= WIDTH + 0.01
        assert 0 <= y <= HEIGHT


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    (ax, ay), (bx, by) = placed_labels({"teacher": (200, 50), "student": (206, 52)}).values()
    assert abs(ay - by) >= 11 or abs(ax - bx) >= 6.1 * 7


def test_names_are_text_and_never_markup() -> None:
    series = [Series("<b>&", [(1000.0, 30.0)], "student"), Series("b", [(2000.0, 31.0)], "student")]
    chart = size_chart("<script>", series, "parameters")
    assert "<b>&" in texts(chart)
    assert "<script>" not in chart
