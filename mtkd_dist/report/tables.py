"""The scores and the end of a launch, as tables for a terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mtkd_dist.report.progress import duration

ROLES = ("bicubic", "model", "teacher", "mean", "aggregate", "student")


class Metric(NamedTuple):
    title: str
    digits: int
    higher_is_better: bool


METRICS = {
    "psnr_y": Metric("PSNR-Y [dB]", 2, True),
    "ssim_y": Metric("SSIM-Y", 4, True),
    "psnr_rgb": Metric("PSNR-RGB [dB]", 2, True),
    "ssim_rgb": Metric("SSIM-RGB", 4, True),
    "lpips": Metric("LPIPS", 4, False),
    "dists": Metric("DISTS", 4, False),
}
LUMA = ("psnr_y", "ssim_y")
_SHARED_CELLS = (LUMA, ("psnr_rgb", "ssim_rgb"), ("lpips", "dists"))

# One cell of a table: pieces of text and whether each is bold.
Pieces = list[tuple[str, bool]]


def parameters_text(count: int | None) -> str:
    """`512`, `897K`, `1.23M`; a dash for none."""
    if not count:
        return "–"
    for unit, size in (("M", 1_000_000), ("K", 1_000)):
        # 999,600 rounds to 1.00M, not to 1000K.
        if count >= 0.9995 * size:
            value = count / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{unit}"
    return str(count)


def scores_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = LUMA, caption: str | None = None) -> Table:
    """One line for each model, one column for each test set with its metrics; the best of a set is bold.

    Args:
        rows: rows of scores.json with keys `model`, `role` (one of `ROLES`), `set`, `scale`, `params` (a count or
            None) and the metrics. Models of one role keep their order.
        metrics: keys of `METRICS` that share a cell.
        caption: the line below; None: what the metrics are called.

    Raises:
        ValueError: unknown role, or two rows for the same model, set and scale.
    """
    header, lines = score_cells(rows, metrics)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=Text(caption or score_caption(metrics)),
        caption_justify="left",
    )
    table.add_column(header[0], overflow="fold", min_width=7)
    table.add_column(header[1], no_wrap=True)
    table.add_column(header[2], no_wrap=True, justify="right")
    for name in header[3:]:
        # Where the screen is narrow, name and scores break at their spaces and the rest stays readable.
        table.add_column(name, justify="right", min_width=8)
    for cells in lines:
        table.add_row(*map(rich_text, cells))
    return table


def markdown_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = LUMA) -> str:
    """The same table as `scores_table` in Markdown, without caption and line break at its end."""
    return markdown_lines(*score_cells(rows, metrics), left=2)


def markdown_lines(header: Sequence[str], lines: Sequence[Sequence[Pieces]], left: int) -> str:
    """A Markdown table, the first `left` columns to the left and the others to the right; no line break at its end."""
    table = [list(header), ["---"] * left + ["---:"] * (len(header) - left)]
    for cells in lines:
        table.append(["".join(f"**{text}**" if bold else text for text, bold in cell) for cell in cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def rich_text(cell: Pieces) -> Text:
    """The same cell for a terminal."""
    return Text.assemble(*((text, "bold" if bold else "") for text, bold in cell))


class ScoreTable(NamedTuple):
    """What one of several tables shows."""

    caption: str
    rows: Sequence[Mapping[str, Any]]
    metrics: tuple[str, ...]


def split_tables(rows: Sequence[Mapping[str, Any]], ensembles: Collection[str]) -> list[ScoreTable]:
    """A table for each colour space and kind of metric that the rows have.

    Self-ensembles (`ensembles`: names of models) get tables of their own: to compare one with a plain row, by bold type
    or by eye, is the mistake that their mark warns of.
    """
    plain = [row for row in rows if row["model"] not in ensembles]
    marked = [row for row in rows if row["model"] in ensembles]
    tables = []
    for part, note in ((plain, ""), (marked, "; self-ensemble: mean over 8 flips and rotations")):
        for cell in _SHARED_CELLS:
            metrics = tuple(metric for metric in cell if part and metric in part[0])
            if metrics:
                tables.append(ScoreTable(score_caption(metrics) + note, part, metrics))
    return tables


def summary(
    rows: Sequence[Mapping[str, Any]],
    seconds_by_stage: Mapping[str, float],
    output_files: Mapping[str, str],
    limits: Mapping[str, str] = {},
) -> RenderableType:
    """The end of a launch: scores, wall time of each stage, what limited it, where everything lies (what -> path)."""
    stages = Table.grid(padding=(0, 2))
    for stage, seconds in seconds_by_stage.items():
        stages.add_row(Text(f"  {stage}"), Text(duration(seconds), justify="right"))
    files = Table.grid(padding=(0, 2))
    files.add_column()
    files.add_column(overflow="fold")
    for what, path in output_files.items():
        files.add_row(Text(f"  {what}"), Text(path))
    parts: list[RenderableType] = [scores_table(rows), "", Text("Time", style="bold"), stages]
    if limits:
        limited = Table.grid(padding=(0, 2))
        limited.add_column()
        limited.add_column(overflow="fold")
        for stage, text in limits.items():
            limited.add_row(Text(f"  {stage}"), Text(text))
        parts += ["", Text("What limited the run", style="bold"), limited]
    return Group(*parts, "", Text("Files", style="bold"), files)


def score_caption(metrics: Sequence[str]) -> str:
    """What the numbers of a cell are."""
    lower = "" if METRICS[metrics[0]].higher_is_better else " (lower is better)"
    return f"{' / '.join(METRICS[metric].title for metric in metrics)}, best in bold{lower}"


def score_cells(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> tuple[list[str], list[list[Pieces]]]:
    """The header, and the cells of each line, of the table that `scores_table` shows; errors as there."""
    scores: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    columns: list[str] = []
    for row in rows:
        if row["role"] not in ROLES:
            raise ValueError(f"model {row['model']!r} has role {row['role']!r}; expected one of {', '.join(ROLES)}")
        column = f"{row['set']} ×{row['scale']}"
        if column not in columns:
            columns.append(column)
        of_model = scores.setdefault((row["role"], row["model"]), {})
        if column in of_model:
            raise ValueError(
                f"model {row['model']!r} has two scores for {column}; scores.json holds one a model and set"
            )
        of_model[column] = row
    best = {
        (column, metric): _best(
            (of_model[column][metric] for of_model in scores.values() if column in of_model), METRICS[metric]
        )
        for column in columns
        for metric in metrics
    }
    lines = []
    for (role, model), of_model in sorted(scores.items(), key=lambda item: ROLES.index(item[0][0])):
        parameters = parameters_text(next(iter(of_model.values()))["params"])
        line: list[Pieces] = [[(model, False)], [(role, False)], [(parameters, False)]]
        for column in columns:
            score = of_model.get(column)
            if score is None:
                line.append([("–", False)])
                continue
            cell: Pieces = []
            for metric in metrics:
                text = f"{score[metric]:.{METRICS[metric].digits}f}"
                cell += [(" / ", False)] if cell else []
                cell.append((text, score[metric] == best[column, metric]))
            line.append(cell)
        lines.append(line)
    return ["model", "role", "params", *columns], lines


def _best(values: Iterable[float], metric: Metric) -> float | None:
    choose = max if metric.higher_is_better else min
    return choose((value for value in values if not math.isnan(value)), default=None)
