"""What a comparison hands back: the cells that are there, as tables, files and artifacts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from mtkd_dist.compare.tree import CompareConfig
from mtkd_dist.compare.work import Work, config_of_method
from mtkd_dist.config.tree import Config
from mtkd_dist.report.comparison import Cell, Comparison, Scores
from mtkd_dist.report.comparison_csv import differences_csv, scores_csv, summary_csv
from mtkd_dist.report.comparison_plot import draw
from mtkd_dist.report.comparison_tables import markdown, screen
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.stages.distil_method import needs_aggregator
from mtkd_dist.stages.manifest import write_json, write_text
from mtkd_dist.stages.run import say
from mtkd_dist.tracking.tracker import Tracker

TABLES, PLOT, CELLS = "comparison.md", "comparison.png", "cells.json"


class Outcomes:
    """What is known of all cells by now: from earlier starts in `output`, until this one says otherwise."""

    def __init__(self, compare: CompareConfig, base: Config, output: Path) -> None:
        self._compare = compare
        self._base = base
        self._cells: dict[tuple[str, str, int], Cell] = {}
        self._references: dict[str, Scores] = {}
        self.failures: list[str] = []
        """What there will not be, each with its reason."""
        self._read(output / CELLS)

    def add(self, work: Work | None, outcome: Any) -> None:
        """The cells of `work`, or under None the references; or why there are none."""
        if work is None:
            self._references = {} if isinstance(outcome, str) else outcome
            self.failures += [f"references: {outcome}"] if isinstance(outcome, str) else []
            return
        for student in work.students:
            self._cells.pop((work.method, student, work.seed), None)
        if isinstance(outcome, str):
            self.failures += [f"{work.method}, {student}, seed {work.seed}: {outcome}" for student in work.students]
        else:
            self._cells |= {_key(cell): cell for cell in outcome}

    def comparison(self) -> Comparison:
        """Of the cells that are there, in the order of the grid."""
        compare = self._compare
        grid = [(m, student, seed) for m in compare.methods for student in compare.students for seed in compare.seeds]
        cells = [self._cells[key] for key in grid if key in self._cells]
        references = self._references
        return Comparison(compare.methods, compare.students, compare.seeds, cells, references, self._settings())

    def plain(self) -> dict[str, Any]:
        """All of it, as JSON has it; `_read` reads it back."""
        cells = [dataclasses.asdict(cell) for cell in self.comparison().cells]
        return {"cells": cells, "references": self._references}

    def _settings(self) -> dict[str, str]:
        """What is in force, for the paragraph on the set-up."""
        base, distil, aggregate = self._base, self._base.distil, self._base.aggregate
        live = base.teacher_outputs == "live"
        teachers = {
            "teachers": ", ".join(base.teachers),
            "their answers": "live, to the very crops"
            if live
            else "crops of rendered photographs where a method asks for images alone, else live",
        }
        aggregator = {"aggregator": f"{base.aggregator}, {aggregate.steps:,} steps"}
        return {
            "enlargement": f"×{base.scale}",
            **(teachers if base.teachers else {}),
            **(aggregator if any(needs_aggregator(config_of_method(base, m)) for m in self._compare.methods) else {}),
            "photographs": ", ".join(base.data),
            "batch": f"{distil.batch_size} patches of {distil.patch} × {distil.patch} LR pixels",
            "learning rate": ", ".join(f"{rate:g}" for rate in distil.rates) or f"{distil.learning_rate:g}",
        }

    def _read(self, file: Path) -> None:
        try:
            found = json.loads(file.read_text())
            cells = [Cell(**cell) for cell in found["cells"]]
        except (OSError, ValueError, TypeError, KeyError):
            return  # of an earlier start that ended before there was one: nothing is known
        self._cells = {_key(cell): cell for cell in cells}
        self._references = found["references"]


def hand_back(outcomes: Outcomes, output: Path, tracker: Tracker, console: Console) -> None:
    """Write the files of what is there, show the table, and give both to MLflow. Nothing where no cell is there."""
    comparison = outcomes.comparison()
    if not comparison.cells:
        return
    plot = draw(comparison, output / PLOT)
    texts = {
        TABLES: markdown(comparison, PLOT if plot else None),
        "scores.csv": scores_csv(comparison),
        "summary.csv": summary_csv(comparison),
        "differences.csv": differences_csv(comparison),
    }
    for name, text in texts.items():
        write_text(output / name, text)
    write_json(output / CELLS, outcomes.plain())
    for name in (*texts, CELLS):
        tracker.run.artifact(output / name)
    if plot is not None:
        tracker.run.image(plot, plot.stem)
    with even_if_quiet(console):
        console.print(screen(comparison))
    say(console, f"tables  {output / TABLES}")


def _key(cell: Cell) -> tuple[str, str, int]:
    return cell.method, cell.student, cell.seed
