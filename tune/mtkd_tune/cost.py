"""What a sweep cost and what it did not have to do twice, as data and as sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal as bytes_text

from mtkd_dist.report.progress import duration
from mtkd_dist.stages import manifest
from mtkd_tune.rows import TrialRow


@dataclass(frozen=True)
class Cost:
    """In seconds where nothing else is said."""

    wall_seconds: float
    """Of the whole sweep, over all its starts."""
    trial_seconds: float
    """Of all trials together; more than `wall_seconds` where they ran side by side."""
    trials: dict[str, int]
    """Status -> number of trials."""
    trials_per_hour: float
    """Done and stopped trials per hour of wall time, the teachers' work included."""
    starts: int
    """Of all trials together: more than there are trials where one crashed, or was copied by pbt."""
    teacher_seconds: dict[str, float]
    """What was done once for all trials (teachers/NAME, answers/teachers) -> time that it took."""
    teacher_bytes: int
    """Of the teachers' rendered images; 0 where teachers answer live."""
    aggregators_trained: int
    """To the end; what stopped trials left half trained does not count."""
    aggregators_reused: int
    """Trials that took an aggregator that another trial had trained to the end."""
    aggregator_last_start_seconds: float
    """Of the trainings of aggregators that are done: of each its last start, so less than the whole of one that was
    interrupted."""
    saved_at_least_seconds: float
    """Of those that were not made again: for each trial that took an aggregator, the time of the last start of that
    one's training."""
    refused: dict[str, int]
    """Reason -> number of combinations that the search proposed and that cannot work."""


def cost(
    rows: Sequence[TrialRow],
    wall_seconds: float,
    teacher_seconds: Mapping[str, float],
    teacher_bytes: int,
    aggregator_seconds: Mapping[str, float],
    refused: Counter[str],
) -> Cost:
    """`aggregator_seconds`: as `aggregators_work`."""
    taken = [row.aggregator for row in rows if row.aggregator in aggregator_seconds and not row.aggregator_trained]
    ended = sum(row.status in ("done", "stopped") for row in rows)
    return Cost(
        wall_seconds=wall_seconds,
        trial_seconds=sum(row.seconds for row in rows),
        trials=dict(Counter(row.status for row in rows)),
        trials_per_hour=ended / wall_seconds * 3600 if wall_seconds > 0 else 0.0,
        starts=sum(row.starts for row in rows),
        teacher_seconds=dict(teacher_seconds),
        teacher_bytes=teacher_bytes,
        aggregators_trained=len(aggregator_seconds),
        aggregators_reused=len(taken),
        aggregator_last_start_seconds=sum(aggregator_seconds.values()),
        saved_at_least_seconds=sum(aggregator_seconds[name] for name in taken),
        refused=dict(refused.most_common()),
    )


def sentences(cost: Cost) -> list[str]:
    """What is said at the end of the screen."""
    counts = ", ".join(f"{count} {status}" for status, count in cost.trials.items())
    lines = [
        f"{sum(cost.trials.values())} trials ({counts}) in {duration(cost.wall_seconds)}, "
        f"{cost.trials_per_hour:.1f} an hour; {duration(cost.trial_seconds)} of trials' own time"
    ]
    if cost.teacher_seconds:
        size = f", {bytes_text(cost.teacher_bytes)} of images" if cost.teacher_bytes else ""
        lines.append(f"teachers, once for all trials: {duration(sum(cost.teacher_seconds.values()))}{size}")
    if cost.aggregators_trained:
        lines.append(
            f"aggregators: {cost.aggregators_trained} trained in {duration(cost.aggregator_last_start_seconds)}, taken "
            f"again by {cost.aggregators_reused} trials, which saved at least {duration(cost.saved_at_least_seconds)}"
        )
    if cost.refused:
        reasons = "; ".join(f"{reason} ({count}x)" for reason, count in cost.refused.items())
        lines.append(f"combinations that cannot work, not tried: {sum(cost.refused.values())}: {reasons}")
    return lines


def aggregators_work(output: Path) -> dict[str, float]:
    """Name of each aggregator that the sweep in `output` has trained to the end, as in the rows -> seconds of the last
    start of its training."""
    found = {folder.name: manifest.read(folder / "aggregate") for folder in sorted(output.glob("aggregators/*"))}
    return {name: one.seconds for name, one in found.items() if one is not None}


def teachers_work(output: Path) -> tuple[dict[str, float], int]:
    """What the folder of a sweep tells of its teachers: stage -> seconds, and the bytes of their rendered images.

    From the manifests that the stages left, so that a sweep that went on knows what its first start did.
    """
    found = [manifest.read(folder) for folder in [*sorted(output.glob("teachers/*")), output / "answers" / "teachers"]]
    stages = [one for one in found if one is not None]
    return {one.stage: one.seconds for one in stages}, sum(int(one.summary.get("bytes", 0)) for one in stages)
