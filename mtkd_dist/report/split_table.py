"""The splits of a stage that were looked at, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mtkd_dist.pools.split import Costs, Forecast
from mtkd_dist.report.progress import duration

MOST_ROWS = 16
"""Of many possible splits, the fastest are shown."""


def split_table(
    stage: str, kind: str, costs: Costs, forecasts: Sequence[Forecast], chosen: Forecast, cached: Forecast, images: int
) -> RenderableType:
    """What was measured, and what each split is predicted to do; the chosen one is marked.

    Args:
        kind: "GPU" or "CPU".
        cached: the same with teacher answers that are rendered first.
        images: that the stage trains on in all (steps x batch size).
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(stage, style="bold"), title_justify="left")
    for name in ("teacher answers", "teacher workers", "student workers", "images/s", "limited by", "time", ""):
        table.add_column(name, justify="right" if name.endswith(("workers", "/s")) or name == "time" else "left")
    shown = sorted(forecasts, key=lambda f: -f.images_per_second)[:MOST_ROWS]
    for forecast in sorted(shown, key=lambda f: (f.split.students, f.split.teachers)):
        mark, style = ("◄ chosen", "bold") if forecast == chosen else ("", "")
        table.add_row("live", *_cells(forecast, kind, images), mark, style=style)
    table.add_section()
    render = f"of it {duration(cached.before_seconds)} to render"
    table.add_row("cached", *_cells(cached, kind, images), render)
    left_out = len(forecasts) - len(shown)
    note = [Text(f"  and {left_out} slower splits")] if left_out else []
    return Group(table, *note, _measured(costs))


def _cells(forecast: Forecast, kind: str, images: int) -> list[str]:
    split = forecast.split
    each = f" x {split.threads} cores" if kind == "CPU" and split.threads > 1 else ""
    if split.shared:
        each = f" (half a {kind})"
    return [
        str(split.teachers),
        f"{split.students}{each}",
        f"{forecast.images_per_second:.1f}",
        forecast.limit,
        duration(forecast.stage_seconds(images)),
    ]


def _measured(costs: Costs) -> Table:
    lines = {f"teacher {name}": seconds for name, seconds in costs.teachers.items()}
    lines |= {"aggregator": costs.aggregator} if costs.aggregator else {}
    lines |= {
        "cutting": costs.cut,
        "teacher half, all together": costs.teacher,
        "student step": costs.student_image,
        "student reads": costs.read,
    }
    grid = Table.grid(padding=(0, 2))
    for name, seconds in lines.items():
        extra = f"and {1e3 * costs.student_step:.2f} ms a step" if name == "student step" else ""
        grid.add_row(Text(f"  {name}"), Text(f"{1e3 * seconds:.2f} ms/image", justify="right"), Text(extra))
    return grid
