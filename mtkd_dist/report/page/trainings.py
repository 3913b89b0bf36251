"""The trainings of a run on its page: curves, where the time of the pools went, and what limited them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.report.page.charts import HEIGHT, Series, line_chart, shares_chart
from mtkd_dist.report.page.facts import Stage
from mtkd_dist.report.page.palette import Look
from mtkd_dist.report.page.scales import finite
from mtkd_dist.report.progress import duration, shares_text

SHARES = {"working": "working-share", "starved": "starved-share", "held_back": "held-back-share"}
"""Of `PoolShares` -> its colour."""
LEAST_HEIGHT = 80
"""Of a chart of shares: several are as high together as any other chart, or higher."""
NO_LOOK = Look("text", "")


class Key(NamedTuple):
    """One entry of a legend."""

    name: str
    look: Look
    text: str


class Figure(NamedTuple):
    title: str
    charts: list[tuple[str, Markup]]
    """With what stands above each, if anything."""
    legend: list[Key]


class Block(NamedTuple):
    """What is shown together of one training, or of those of all teachers."""

    title: str
    figures: list[Figure]
    limits: list[tuple[str, str]]
    """(what was trained, what limited it)."""


def blocks(stages: Sequence[Stage], looks: Mapping[str, Look]) -> list[Block]:
    """Of the stages that trained something, in their order."""
    trained = [stage for stage in stages if stage.past.steps or stage.summary.get("limit")]
    teachers = [stage for stage in trained if is_teacher(stage)]
    groups = {"Teachers": teachers} | {stage.name.capitalize(): [stage] for stage in trained if stage not in teachers}
    return [_block(title, group, looks) for title, group in groups.items() if group]


def is_teacher(stage: Stage) -> bool:
    return stage.name.startswith("teachers/")


def learners(stage: Stage) -> dict[str, str]:
    """Model -> what its values are called by: `` or `NAME/`."""
    if is_teacher(stage):
        return {stage.name.removeprefix("teachers/"): ""}
    if stage.name != "distil":
        return {stage.name: ""}
    return {"student": ""} | {f"student-{name}": f"{name}/" for name in stage.more_students}


def _block(title: str, stages: Sequence[Stage], looks: Mapping[str, Look]) -> Block:
    end = max(stage.steps or stage.past.done for stage in stages)
    figures = [_losses(title, stages, looks, end), _scores(title, stages, looks, end), _shares(stages, end)]
    limits = [(next(iter(learners(s))), s.summary["limit"]) for s in stages if s.summary.get("limit")]
    return Block(title, [figure for figure in figures if figure is not None], limits)


def _losses(title: str, stages: Sequence[Stage], looks: Mapping[str, Look], end: int) -> Figure | None:
    series = [
        # Where several students learn, `loss` is that of all together.
        _series(model, stage.past.curve(f"{prefix or 'student/'}loss" if stage.more_students else "loss"), looks)
        for stage in stages
        for model, prefix in learners(stage).items()
    ]
    series = [one for one in series if one.points]
    if not series:
        return None
    legend = [_key(one, f"{_end(one):.3g}") for one in series]
    chart = line_chart(_spoken(f"Loss, {title}", series), series, "steps", end, noisy=True)
    return Figure("Loss", [("", chart)], legend)


def _scores(title: str, stages: Sequence[Stage], looks: Mapping[str, Look], end: int) -> Figure | None:
    series = [
        _series(model, stage.past.curve(f"{prefix}validation_psnr_y"), looks, marks=True)
        for stage in stages
        for model, prefix in learners(stage).items()
    ]
    series = [one for one in series if one.points]
    if not series:
        return None
    legend = []
    for one in series:
        step, best = max(one.points, key=lambda point: point[1])
        at = "" if step == one.points[-1][0] else f", best {best:.2f} at {step:,.0f}"
        legend.append(_key(one, f"{one.last:.2f} dB{at}"))
    chart = line_chart(_spoken(f"PSNR-Y on held-out photographs, {title}", series), series, "steps", end)
    return Figure("Validation PSNR-Y [dB]", [("", chart)], legend)


def _shares(stages: Sequence[Stage], end: int) -> Figure | None:
    """Of the pools of one stage; of several, of their students, which are all that these have."""
    courses: dict[str, list[tuple[int, PoolShares]]] = {}
    for stage in stages:
        for pool in ("teachers", "students"):
            found = [(one.done, one.pools[pool]) for one in stage.past.steps if pool in one.pools]
            if found:
                courses[pool if len(stages) == 1 else next(iter(learners(stage)))] = found
    if not courses:
        return None
    height = max(LEAST_HEIGHT, HEIGHT // len(courses))
    charts = []
    for name, course in courses.items():
        said = f"{name}: {shares_text(course[-1][1])}"
        areas = {colour: [(float(done), getattr(of, share)) for done, of in course] for share, colour in SHARES.items()}
        charts.append((said, shares_chart(f"Time of the {said}", areas, "steps", end, height)))
    legend = [Key(share.replace("_", " "), Look(colour, ""), "") for share, colour in SHARES.items()]
    return Figure("Where the time went, since the start", charts, legend)


def _series(model: str, points: Sequence[tuple[int, float]], looks: Mapping[str, Look], marks: bool = False) -> Series:
    look = looks.get(model, NO_LOOK)
    return Series(model, finite([(float(step), value) for step, value in points]), look.colour, look.dash, marks)


def _key(series: Series, text: str) -> Key:
    return Key(series.name, Look(series.colour, series.dash), text)


def _end(series: Series) -> float:
    """Mean over the last twentieth of its points."""
    last = [y for _, y in series.points[-max(1, len(series.points) // 20) :]]
    return sum(last) / len(last)


def _spoken(title: str, series: Sequence[Series]) -> str:
    ways = [f"{s.name} from {s.points[0][1]:.4g} to {s.last:.4g}" for s in series]
    return f"{title}: {', '.join(ways)}"


def stage_lines(stages: Sequence[Stage]) -> list[list[str]]:
    """Cells of the table of stages: name, steps, images/s, time."""
    return [[s.name, _steps(s), _rate(s), _time(s)] for s in stages]


def _steps(stage: Stage) -> str:
    if stage.steps is None:
        return "–"
    return f"{stage.steps:,}" if stage.finished else f"{stage.past.done:,} of {stage.steps:,}"


def _rate(stage: Stage) -> str:
    rate = stage.summary.get("images_per_second")
    return f"{rate:.3g}" if rate else "–"


def _time(stage: Stage) -> str:
    """Of all its starts, as far as that is known."""
    seconds = max(stage.seconds or 0.0, stage.past.seconds)
    if not stage.finished and not seconds:
        return "–"
    return duration(seconds) + (f" ({stage.past.starts} starts)" if stage.past.starts > 1 else "")
