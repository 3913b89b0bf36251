"""The Pareto front of a sweep with several objectives: the trials that none beats in everything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mtkd_tune.ranking import contenders, cost_of
from mtkd_tune.rows import TrialRow
from mtkd_tune.table import TITLES, markdown_table, objective_text, searched, value_text
from mtkd_tune.tree import Objective

FRONT, REST = "#c1121f", "#8d99ae"


def dominates(a: TrialRow, b: TrialRow, objectives: Sequence[Objective]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    pairs = [(cost_of(a, one), cost_of(b, one)) for one in objectives]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def front(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> list[TrialRow]:
    """The contenders that no other one dominates, the best of the first objective first; equal ones are all on it."""
    rivals = contenders(rows, objectives)
    return sorted(
        (row for row in rivals if not any(dominates(other, row, objectives) for other in rivals)),
        key=lambda row: (*(cost_of(row, one) for one in objectives), row.name),
    )


def front_markdown(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> str:
    """The front as a table: objectives, then what was searched."""
    names = searched(rows)
    header = ["trial", *(TITLES[one] for one in objectives), *names]
    lines = [
        [row.name, *(objective_text(row, one) for one in objectives), *(value_text(row.values.get(n)) for n in names)]
        for row in front(rows, objectives)
    ]
    return (
        f"{markdown_table(header, lines)}\n\n"
        f"{len(lines)} of {len(contenders(rows, objectives))} trials. Each of the others is worse than one of these in "
        "at least one objective, and better in none.\n"
    )


def plot_front(rows: Sequence[TrialRow], objectives: Sequence[Objective], path: Path) -> Path:
    """A PNG: the first objective over each of the others, the front marked and named.

    With two objectives a line joins the front: what lies below or right of it is beaten. With three it is a surface,
    which a panel cannot show, and the line is left out.
    """
    # Not pyplot: it would keep the figure, and may want a display.
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    rivals = contenders(rows, objectives)
    on_front = front(rows, objectives)
    beaten = [row for row in rivals if row not in on_front]
    upright, *others = objectives
    figure = Figure(figsize=(6.4 * len(others), 4.8), layout="constrained")
    for place, along in enumerate(others, 1):
        axes = figure.add_subplot(1, len(others), place)
        axes.scatter(*_points(beaten, along, upright), color=REST, s=28, label="other trials")
        axes.scatter(*_points(on_front, along, upright), color=FRONT, s=42, label="front", zorder=3)
        if len(others) == 1:
            axes.step(*_points(on_front[::-1], along, upright), color=FRONT, linewidth=1.2, where="post")
        for row in on_front:
            at = (getattr(row, along), getattr(row, upright))
            axes.annotate(row.name, at, xytext=(6, -4), textcoords="offset points", va="top", fontsize=8)
        axes.set_xlabel(TITLES[along])
        axes.set_ylabel(TITLES[upright])
        axes.ticklabel_format(axis="y", useOffset=False)
        if along == "params":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.3)
        axes.margins(x=0.2, y=0.12)
        axes.legend(loc="best")
    figure.savefig(path, dpi=150)
    return path


def _points(rows: Sequence[TrialRow], along: Objective, upright: Objective) -> tuple[list[float], list[float]]:
    return [getattr(row, along) for row in rows], [getattr(row, upright) for row in rows]
