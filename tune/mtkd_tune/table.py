"""All trials of a sweep as a table: for a terminal, for Markdown, and as CSV in full precision. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mtkd_dist.report.progress import duration
from mtkd_dist.report.tables import parameters_text
from mtkd_tune.ranking import best, ranked
from mtkd_tune.rows import TrialRow
from mtkd_tune.tree import Objective

TITLES: dict[Objective, str] = {"psnr_y": "PSNR-Y [dB]", "params": "parameters", "latency_ms": "latency [ms]"}
_SHORT_TITLES: dict[Objective, str] = {"psnr_y": "PSNR-Y\n[dB]", "params": "params", "latency_ms": "latency\n[ms]"}
NONE = "–"
# Names of columns that no key of a configuration has.
_AFTER = {
    "step": "step",
    "psnr_y": "psnr_y_db",
    "params": "params",
    "latency_ms": "latency_ms",
    "seconds": "seconds",
    "starts": "starts",
    "aggregator": "aggregator_folder",
    "aggregator_trained": "aggregator_trained",
    "rates": "rates",
    "error": "error",
}


def searched(rows: Sequence[TrialRow]) -> list[str]:
    """Names of all searched values, as the trials first have them."""
    return list(dict.fromkeys(name for row in rows for name in row.values))


def value_text(value: Any) -> str:
    """A value as a person reads it: `0.00123`, `true`, `[1, 2]`; a dash for none."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_text, value))}]"
    return str(value)


def objective_text(row: TrialRow, objective: Objective) -> str:
    value = getattr(row, objective)
    if value is None:
        return NONE
    return parameters_text(value) if objective == "params" else f"{value:.{3 if objective == 'psnr_y' else 2}f}"


def screen(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> RenderableType:
    """The trials from the best to the worst, the best one bold; below, why trials failed and what must be known."""
    names = searched(rows)
    chosen = best(rows, objectives)
    short = _short_titles(names)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("trial", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for name in names:
        table.add_column(short[name], justify="right", no_wrap=True)
    table.add_column("step", justify="right")
    for objective in objectives:
        table.add_column(_SHORT_TITLES[objective], justify="right", no_wrap=True)
    table.add_column("time", justify="right")
    for row in ranked(rows):
        cells = [row.name, row.status, *(value_text(row.values.get(name)) for name in names)]
        cells += [str(row.step) if row.psnr_y is not None else NONE]
        cells += [
            *(objective_text(row, objective) for objective in objectives),
            str(timedelta(seconds=round(row.seconds))),
        ]
        is_best = chosen is not None and row.name == chosen.row.name
        table.add_row(*(Text(cell, style="bold" if is_best else "") for cell in cells))
    notes = [f"best, in bold: {chosen.row.name}. {chosen.note}".rstrip() if chosen else "No trial has a score yet."]
    notes += [f"{row.name} failed: {row.error}" for row in rows if row.status == "failed"]
    return Group(table, *(Text(note) for note in notes))


def trial_line(row: TrialRow, rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> str:
    """What became of a trial, in a line for the screen while others still run."""
    values = ", ".join(f"{name}={value_text(value)}" for name, value in row.values.items())
    if row.status == "waiting":
        return f"{row.name}: crashed and is started again: {row.error}"
    if row.status == "failed":
        return f"{row.name}: failed ({values}): {row.error}"
    scores = ", ".join(f"{TITLES[one]} {objective_text(row, one)}" for one in objectives)
    chosen = best(rows, objectives)
    first = " (the best so far)" if chosen is not None and chosen.row.name == row.name else ""
    word = "stopped" if row.status == "stopped" else "done"
    return f"{row.name}: {word} at step {row.step}, {scores}{first}, {duration(row.seconds)}; {values}"


def _short_titles(names: Sequence[str]) -> dict[str, str]:
    """Broken into short lines, and without their groups where the rest is unique: many columns fit a narrow screen."""
    lasts = Counter(name.rpartition(".")[2] for name in names)
    told = {name: name if lasts[name.rpartition(".")[2]] > 1 else name.rpartition(".")[2] for name in names}
    return {name: text.replace(".", ".\n").replace("_", "_\n") for name, text in told.items()}


def csv_text(rows: Sequence[TrialRow]) -> str:
    """One line for each trial, by name: all that is known, numbers as Python writes them, lists as JSON."""
    names = searched(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["trial", "status", *names, *_AFTER.values()])
    for row in sorted(rows, key=lambda row: row.name):
        cells = [row.values.get(name) for name in names] + [getattr(row, field) for field in _AFTER]
        writer.writerow([row.name, row.status, *map(_csv_cell, cells)])
    return out.getvalue()


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def markdown(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> str:
    """The same columns in Markdown, by name; the best trial is bold."""
    names = searched(rows)
    chosen = best(rows, objectives)
    lines = []
    for row in sorted(rows, key=lambda row: row.name):
        known = {field: value_text(getattr(row, field)) for field in _AFTER}
        known |= {objective: objective_text(row, objective) for objective in TITLES}
        known |= {"seconds": f"{row.seconds:.1f}"}
        cells = [row.name, row.status, *(value_text(row.values.get(name)) for name in names), *known.values()]
        is_best = chosen is not None and row.name == chosen.row.name
        lines.append([f"**{cell}**" if is_best and cell else cell for cell in cells])
    text = markdown_table(["trial", "status", *names, *_AFTER.values()], lines)
    note = f"Best, in bold: {chosen.row.name}. {chosen.note}".rstrip() if chosen else "No trial has a score yet."
    return f"{text}\n\n{note}\n"


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without line break at its end; `|` and line breaks in a cell are made harmless."""
    table = [header, ["---"] * len(header), *lines]
    harmless = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in table]
    return "\n".join("| " + " | ".join(line) + " |" for line in harmless)
