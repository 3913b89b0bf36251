"""The scores and the end of a launch, as tables for a terminal and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mtkd_dist.report.progress import duration

ROLES = ("bicubic", "teacher", "mean", "aggregate", "student")

# One cell: pieces of text and whether each is the best of its set.
_Cell = list[tuple[str, bool]]


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


def scores_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each model, one column for each test set with PSNR-Y [dB] / SSIM-Y; the best of a set is bold.

    Args:
        rows: rows of scores.json with keys `model`, `role` (bicubic, teacher, mean, aggregate or student), `set`,
            `scale`, `psnr_y`, `ssim_y`, `params` (a count or None). Models of one role keep their order.

    Raises:
        ValueError: unknown role, or two rows for the same model, set and scale.
    """
    header, lines = _layout(rows)
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=Text("PSNR-Y [dB] / SSIM-Y, best in bold"),
        caption_justify="left",
    )
    table.add_column(header[0], overflow="fold", min_width=7)
    table.add_column(header[1], no_wrap=True)
    table.add_column(header[2], no_wrap=True, justify="right")
    for name in header[3:]:
        # Where the screen is narrow, name and scores break at their spaces and the rest stays readable.
        table.add_column(name, justify="right", min_width=8)
    for cells in lines:
        table.add_row(*(Text.assemble(*((text, "bold" if best else "") for text, best in cell)) for cell in cells))
    return table


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same table as `scores_table` in Markdown, without a line break at its end."""
    header, lines = _layout(rows)
    table = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for cells in lines:
        table.append(["".join(f"**{text}**" if best else text for text, best in cell) for cell in cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def summary(
    rows: Sequence[Mapping[str, Any]], seconds_by_stage: Mapping[str, float], output_files: Mapping[str, str]
) -> RenderableType:
    """The end of a launch: scores, wall time of each stage, and where everything lies (what -> path)."""
    stages = Table.grid(padding=(0, 2))
    for stage, seconds in seconds_by_stage.items():
        stages.add_row(Text(f"  {stage}"), Text(duration(seconds), justify="right"))
    files = Table.grid(padding=(0, 2))
    files.add_column()
    files.add_column(overflow="fold")
    for what, path in output_files.items():
        files.add_row(Text(f"  {what}"), Text(path))
    return Group(scores_table(rows), "", Text("Time", style="bold"), stages, "", Text("Files", style="bold"), files)


def _layout(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[_Cell]]]:
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
        (column, key): _best(of_model[column][key] for of_model in scores.values() if column in of_model)
        for column in columns
        for key in ("psnr_y", "ssim_y")
    }
    lines = []
    for (role, model), of_model in sorted(scores.items(), key=lambda item: ROLES.index(item[0][0])):
        parameters = parameters_text(next(iter(of_model.values()))["params"])
        line: list[_Cell] = [[(model, False)], [(role, False)], [(parameters, False)]]
        for column in columns:
            score = of_model.get(column)
            if score is None:
                line.append([("–", False)])
                continue
            psnr, ssim = score["psnr_y"], score["ssim_y"]
            line.append(
                [
                    (f"{psnr:.2f}", psnr == best[column, "psnr_y"]),
                    (" / ", False),
                    (f"{ssim:.4f}", ssim == best[column, "ssim_y"]),
                ]
            )
        lines.append(line)
    return ["model", "role", "params", *columns], lines


def _best(values: Iterable[float]) -> float | None:
    return max((value for value in values if not math.isnan(value)), default=None)
