"""The differences of a comparison as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtkd_dist.report.comparison import Comparison
from mtkd_dist.report.comparison_differences import Difference, baseline, difference

# Okabe and Ito: told apart by colour-blind readers; the markers tell the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
# Of the distance between two methods, what the students of one share.
_GROUP = 0.6


def shown(comparison: Comparison) -> list[Difference]:
    """Differences in PSNR-Y of every method to the baseline that there are and that are finite."""
    if len(comparison.methods) < 2:
        return []
    base = baseline(comparison.methods)
    found = [
        difference(comparison, method, base, student, test_set, "psnr_y")
        for test_set in comparison.images
        for student in comparison.students
        for method in comparison.methods
        if method != base
    ]
    return [one for one in found if one.mean is not None and math.isfinite(one.mean)]


def draw(comparison: Comparison, path: Path) -> Path | None:
    """Writes a PNG: a panel for each test set, a row for each method, a mark with its joint interval for each student.

    Returns:
        `path`; None, and no file, where there is no difference to show.
    """
    # Slow to import, and only here; a figure without pyplot wants no display and leaves no trace in the process.
    from matplotlib.figure import Figure

    differences = shown(comparison)
    if not differences:
        return None
    test_sets = list(dict.fromkeys(one.test_set for one in differences))
    base = baseline(comparison.methods)
    methods = [method for method in comparison.methods if method != base]
    students = comparison.students
    height = 1.3 + 0.3 * len(students) + len(methods) * (0.22 + 0.16 * len(students))
    figure = Figure(figsize=(2.0 + 3.6 * len(test_sets), height), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(test_sets), sharey=True, squeeze=False)[0]
    for panel, test_set in zip(panels, test_sets, strict=True):
        _panel(panel, [one for one in differences if one.test_set == test_set], methods, students)
        panel.set_title(test_set, loc="left", fontsize=11)
        panel.set_xlabel(f"PSNR-Y minus {base} [dB]")
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    figure.legend(
        handles=_legend(students),
        loc="outside lower left",
        fontsize=9,
        frameon=False,
        title=_explanation(differences),
        title_fontsize=9,
        alignment="left",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def _panel(panel: Any, differences: Sequence[Difference], methods: Sequence[str], students: Sequence[str]) -> None:
    panel.axvline(0, color="#444444", linewidth=1)
    panel.grid(axis="x", color="#dddddd", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    # More labels than this run into each other.
    panel.locator_params(axis="x", nbins=5)
    for one in differences:
        number = students.index(one.student)
        place = methods.index(one.method) + _GROUP * ((number + 0.5) / len(students) - 0.5)
        style = _style(number)
        if one.intervals.joint is not None:
            panel.plot(one.intervals.joint, (place, place), color=style["color"], linewidth=1.8)
        panel.plot([one.mean], [place], linestyle="none", **style)


def _explanation(differences: Sequence[Difference]) -> str:
    if any(one.intervals.joint is not None for one in differences):
        return "Mean over images and seeds; bars: 95 % interval over both"
    return "Mean over images and seeds; intervals need two of each"


def _legend(students: Sequence[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], label=student, linewidth=1.8, **_style(i)) for i, student in enumerate(students)]


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLOURS[number % len(COLOURS)],
        # After all colours the markers are shifted by one: a pair comes twice only after 36 students.
        "marker": MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        "markersize": 6,
    }
