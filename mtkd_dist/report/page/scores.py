"""Scores on the page: the sentence at its top, the table, quality against size, and the spectra of errors. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mtkd_dist.report.page.charts import Series, bands_chart, size_chart
from mtkd_dist.report.page.facts import Row
from mtkd_dist.report.page.palette import Look
from mtkd_dist.report.page.trainings import NO_LOOK, Figure, Key
from mtkd_dist.report.tables import Pieces, parameters_text, score_caption, score_cells

LUMA = ("psnr_y", "ssim_y")
GROUPS = {"LL": "≥ 8 px", "3": "4 px", "2": "2 px", "1": "1 px"}
"""Level of a band -> the side of the squares that it compares with each other (LL: of what they are the mean)."""


class Table(NamedTuple):
    caption: str
    header: list[str]
    lines: list[list[Pieces]]


def roles(rows: Sequence[Row]) -> dict[str, str]:
    """Model -> role, in the order of the table."""
    return {row["model"]: row["role"] for row in rows}


def table(rows: Sequence[Row]) -> Table | None:
    if not rows:
        return None
    header, lines = score_cells(rows, LUMA)
    return Table(score_caption(LUMA), header, lines)


def sets(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """(name, scale) of the test sets."""
    return list(dict.fromkeys((row["set"], row["scale"]) for row in rows))


def headline(rows: Sequence[Row], name: str, scale: int) -> str:
    """`On Set5 ×4 the student scores 30.08 dB: 1.65 dB above bicubic, and 2.44 dB below ...`; empty without a student.

    The best teacher is compared with its size.
    """
    of_set = [row for row in rows if (row["set"], row["scale"]) == (name, scale)]
    student = next((row for row in of_set if row["role"] == "student"), None)
    if student is None:
        return ""
    said = [_compared(student["psnr_y"] - row["psnr_y"], "bicubic") for row in of_set if row["role"] == "bicubic"]
    teachers = [row for row in of_set if row["role"] == "teacher"]
    if teachers:
        best = max(teachers, key=lambda row: row["psnr_y"])
        said.append(_compared(student["psnr_y"] - best["psnr_y"], f"the best teacher, {best['model']}"))
        if student["params"] and best["params"]:
            said[-1] += f", with {student['params'] / best['params']:.0%} of its parameters"
    return f"On {name} ×{scale} the student scores {student['psnr_y']:.2f} dB: {', and '.join(said)}."


def _compared(difference: float, other: str) -> str:
    if abs(difference) < 0.005:
        return f"as much as {other}"
    return f"{abs(difference):.2f} dB {'above' if difference > 0 else 'below'} {other}"


def sizes(rows: Sequence[Row], looks: Mapping[str, Look]) -> list[Figure]:
    """For each set: PSNR-Y against parameters of all that have some."""
    figures = []
    for name, scale in sets(rows):
        shown = [
            Series(row["model"], [(row["params"], row["psnr_y"])], looks[row["model"]].colour)
            for row in rows
            if (row["set"], row["scale"]) == (name, scale) and row["params"] and math.isfinite(row["psnr_y"])
        ]
        if len(shown) < 2:
            continue
        said = [f"{s.name} {s.points[0][1]:.2f} dB with {parameters_text(int(s.points[0][0]))}" for s in shown]
        spoken = f"PSNR-Y on {name} against parameters: {', '.join(said)}"
        chart = size_chart(spoken, shown, "parameters")
        figures.append(Figure(f"{name} ×{scale}: PSNR-Y [dB] by size", [("", chart)], []))
    return figures


def spectra(bands: Sequence[Row], looks: Mapping[str, Look]) -> list[tuple[Figure, Table]]:
    """For each set: a chart of |SR - HR| by band, in per cent of that of bicubic, and a table of the values."""
    return [_spectrum([row for row in bands if (row["set"], row["scale"]) == key], looks, *key) for key in sets(bands)]


def _spectrum(rows: Sequence[Row], looks: Mapping[str, Look], name: str, scale: int) -> tuple[Figure, Table]:
    names = list(rows[0]["bands"])
    base = next((row["bands"] for row in rows if row["model"] == "bicubic"), None)
    series = []
    for row in rows:
        values = [row["bands"][band] / (base[band] if base and base[band] else 1.0) for band in names]
        look = looks.get(row["model"], NO_LOOK)
        points = [(float(i), 100 * value if base else value) for i, value in enumerate(values)]
        series.append(Series(row["model"], points, look.colour, look.dash))
    groups = {GROUPS[key]: len(list(of)) for key, of in itertools.groupby(names, _group)}
    unit = "% of bicubic" if base else "levels of 255"
    spoken = f"Error on {name} by wavelet band, in {unit}: " + ", ".join(
        f"{s.name} {s.points[0][1]:.3g} in {names[0]} and {s.last:.3g} in {names[-1]}" for s in series
    )
    legend = [Key(s.name, Look(s.colour, s.dash), "") for s in series]
    chart = bands_chart(spoken, series, [band.rstrip("0123456789") for band in names], groups)
    lines: list[list[Pieces]] = [
        [[(row["model"], False)], *([(f"{row['bands'][b]:.2f}", _is_best(row, b, rows))] for b in names)]
        for row in rows
    ]
    caption = f"{name} ×{scale}: mean |coefficient| of SR − HR on Y, in levels of 255; least in bold"
    return Figure(f"{name} ×{scale}: error by band [{unit}]", [("", chart)], legend), Table(
        caption, ["model", *names], lines
    )


def _group(band: str) -> str:
    return "LL" if band.startswith("LL") else band[-1]


def _is_best(row: Row, band: str, rows: Sequence[Row]) -> bool:
    return bool(row["bands"][band] == min(other["bands"][band] for other in rows))
