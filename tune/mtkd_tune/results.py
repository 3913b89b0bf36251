"""What a sweep hands back: tables, best.yaml, the front and the plots, as files of its folder."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from optuna.distributions import BaseDistribution

from mtkd_dist.config.tree import Config
from mtkd_dist.stages.manifest import write_json, write_text
from mtkd_tune import plots
from mtkd_tune.best_config import best_yaml
from mtkd_tune.cost import Cost
from mtkd_tune.front import front, front_markdown, plot_front
from mtkd_tune.ranking import best
from mtkd_tune.rows import TrialRow
from mtkd_tune.table import csv_text, markdown
from mtkd_tune.tree import SweepConfig

BEST = "best.yaml"
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class HandedBack:
    files: list[Path]
    notes: list[str]
    """What is not there, and why."""


def hand_back(
    output: Path,
    rows: Sequence[TrialRow],
    sweep: SweepConfig,
    config_of: Callable[[TrialRow], Config],
    distributions: Mapping[str, BaseDistribution],
    cost: Cost,
    date: str,
) -> HandedBack:
    """Writes all files into `output`, each whole or not at all; what a picture cannot show becomes a note.

    May be called again: after an interruption, and when a resumed sweep ends.

    Args:
        config_of: the launch configuration of a trial, with all searched values in it.
        distributions: name of each searched value -> where it came from.
        date: day of the sweep's end, for best.yaml.
    """
    files, notes = [output / "trials.csv", output / "trials.md", output / "cost.json"], []
    write_text(files[0], csv_text(rows))
    write_text(files[1], markdown(rows, sweep.objectives))
    write_json(files[2], dataclasses.asdict(cost))
    chosen = best(rows, sweep.objectives)
    if chosen is None:
        notes.append(f"{BEST} is left out: no trial was trained to the end or stopped with a score.")
    else:
        write_text(output / BEST, best_yaml(config_of(chosen.row), chosen, sweep, date))
        files.append(output / BEST)
    if len(sweep.objectives) > 1:
        if front(rows, sweep.objectives):
            write_text(output / "front.md", front_markdown(rows, sweep.objectives))
            files.append(output / "front.md")
            _draw(lambda: [plot_front(rows, sweep.objectives, output / "front.png")], "front.png", files, notes)
        else:
            notes.append(f"The front is left out: no trial ended with all of {', '.join(sweep.objectives)}.")
    reason = plots.why_not(rows, distributions)
    if reason is None:
        names = f"{plots.IMPORTANCE} and {plots.PARALLEL}"
        _draw(lambda: plots.draw(rows, distributions, output), names, files, notes)
    else:
        notes.append(reason)
    return HandedBack(files, notes)


def _draw(draw: Callable[[], list[Path]], what: str, files: list[Path], notes: list[str]) -> None:
    """A picture that fails must not cost the tables of a sweep of days."""
    try:
        files += draw()
    except Exception as error:
        logger.exception("%s could not be drawn", what)
        notes.append(f"{what} could not be drawn: {type(error).__name__}: {error}")
