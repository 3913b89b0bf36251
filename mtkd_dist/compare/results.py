"""What a comparison hands back: the cells that are there, as tables, files and artifacts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from mtkd_dist.compare.tree import CompareConfig
from mtkd_dist.compare.work import Work
from mtkd_dist.config.tree import Config
from mtkd_dist.report.comparison import Cell, Comparison, Scores
from mtkd_dist.report.comparison_csv import differences_csv, scores_csv, summary_csv
from mtkd_dist.report.comparison_plot import draw
from mtkd_dist.report.comparison_tables import markdown, screen
from mtkd_dist.stages.manifest import write_json, write_text
from mtkd_dist.stages.run import say
from mtkd_dist.tracking.tracker import Tracker

TABLES, PLOT = "comparison.md", "comparison.png"


class Outcomes:
    """Of all works that have ended by now."""

    def __init__(self, compare: CompareConfig, base: Config) -> None:
        self._compare = compare
        self._base = base
        self.cells: list[Cell] = []
        self.failed = 0
        """Cells that there will not be."""
        self.references: dict[str, Scores] = {}

    def add(self, work: Work, outcome: list[Cell] | str) -> None:
        """The cells of `work`, or why there are none."""
        if isinstance(outcome, str):
            self.failed += len(work.students)
        else:
            self.cells += outcome

    def comparison(self) -> Comparison:
        compare, base = self._compare, self._base
        distil = base.distil
        settings = {
            "enlargement": f"×{base.scale}",
            "teachers": ", ".join(base.teachers),
            "photographs": ", ".join(base.data),
            "batch": f"{distil.batch_size} patches of {distil.patch} × {distil.patch} LR pixels",
            "learning rate": f"{distil.learning_rate:g}",
            "aggregator of mtkd": f"{base.aggregator}, {base.aggregate.steps:,} steps",
        }
        return Comparison(compare.methods, compare.students, compare.seeds, self.cells, self.references, settings)


def hand_back(outcomes: Outcomes, output: Path, tracker: Tracker, console: Console) -> None:
    """Write the files of what is there, show the table, and give both to MLflow. Nothing where no cell is there."""
    if not outcomes.cells:
        return
    comparison = outcomes.comparison()
    plot = draw(comparison, output / PLOT)
    texts = {
        TABLES: markdown(comparison, PLOT if plot else None),
        "scores.csv": scores_csv(comparison),
        "summary.csv": summary_csv(comparison),
        "differences.csv": differences_csv(comparison),
    }
    for name, text in texts.items():
        write_text(output / name, text)
    write_json(output / "cells.json", [_plain(cell) for cell in comparison.cells])
    for name in (*texts, "cells.json"):
        tracker.run.artifact(output / name)
    if plot is not None:
        tracker.run.image(plot, plot.stem)
    console.print(screen(comparison))
    say(console, f"tables  {output / TABLES}")


def _plain(cell: Cell) -> dict[str, Any]:
    return dataclasses.asdict(cell)
