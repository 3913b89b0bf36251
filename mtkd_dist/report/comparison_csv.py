"""A comparison as CSV, in full precision; fields are empty where there is nothing. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mtkd_dist.report.comparison import Comparison, Scores, summaries
from mtkd_dist.report.comparison_differences import against, difference
from mtkd_dist.report.tables import LUMA

SCORES = ("method", "student", "seed", "set", "image", *LUMA)
SUMMARY = ("method", "student", "set", "metric", "seeds", "mean", "deviation_over_seeds")
COST = ("steps", "seconds", "bytes_per_sample", "params")
DIFFERENCES = ("method", "baseline", "student", "set", "metric", "seeds", "images", "mean")
INTERVALS = ("joint", "images_alone", "seeds_alone")


def scores_csv(comparison: Comparison) -> str:
    """A row for each image that a student, or a reference (neither student nor seed), was scored on: all of them."""
    rows: list[tuple[Any, ...]] = []
    for name, scores in comparison.references.items():
        rows += _scored((name, "", ""), scores)
    for cell in comparison.cells:
        rows += _scored((cell.method, cell.student, cell.seed), cell.scores)
    return _csv(SCORES, rows)


def summary_csv(comparison: Comparison) -> str:
    """A row for each method, student, set and metric: mean and deviation over seeds, and what the training cost."""
    return _csv((*SUMMARY, *COST), (row.values() for row in summary_rows(comparison)))


def summary_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The same by the names of the columns; None where there is nothing."""
    rows = []
    for one in summaries(comparison):
        cost = [getattr(one, name) for name in COST]
        for name in comparison.images:
            for metric in LUMA:
                spread = one.scores[name][metric] if name in one.scores else None
                of_seeds = (spread.seeds, spread.mean, spread.deviation) if spread else (0, None, None)
                values = (one.method, one.student, name, metric, *of_seeds, *cost)
                rows.append(dict(zip((*SUMMARY, *COST), values, strict=True)))
    return rows


def differences_csv(comparison: Comparison) -> str:
    """A row for each pair, student, set and metric, with the ends of the three 95 % intervals."""
    pairs = dict.fromkeys(pair for pairs in against(comparison.methods).values() for pair in pairs)
    rows = []
    for student in comparison.students:
        for name in comparison.images:
            for method, other in pairs:
                for metric in LUMA:
                    one = difference(comparison, method, other, student, name, metric)
                    ends = [end for interval in one.intervals for end in interval or (None, None)]
                    rows.append((method, other, student, name, metric, one.seeds, one.images, one.mean, *ends))
    ends_of = [f"{name}_{end}" for name in INTERVALS for end in ("low", "high")]
    return _csv((*DIFFERENCES, *ends_of), rows)


def _scored(names: tuple[Any, ...], scores: Scores) -> Iterator[tuple[Any, ...]]:
    for test_set, of_set in scores.items():
        for image, values in of_set.items():
            yield (*names, test_set, image, *values)


def _csv(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
