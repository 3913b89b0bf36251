"""A sweep in MLflow: one parent run, a child for each trial; and the callback by which Tune's trials become rows.

A child ends as FINISHED also where the scheduler stopped the trial: MLflow shows KILLED like FAILED, as a red cross,
and early stopping is no misfortune. The tag `trial.status` has our word. KILLED are children that the sweep itself
left behind when it was interrupted; a resumed sweep continues them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.tracking.tracker import StageRun, Tracker
from mtkd_tune.ledger import Ledger
from mtkd_tune.ranking import best
from mtkd_tune.rows import TrialRow
from mtkd_tune.tree import Objective

Texts = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Searched values of a trial -> the texts of its networks, by the keys of the configuration (aggregator, student)."""


class TrialRuns:
    """The children of a sweep's run."""

    def __init__(self, tracker: Tracker, texts: Texts):
        self._tracker = tracker
        self._texts = texts
        self._runs: dict[str, StageRun] = {}

    def started(self, row: TrialRow) -> None:
        run = self._run(row.name)
        if row.starts == 1:
            run.params({**row.values, **self._texts(row.values)})
        run.tags({"trial.status": row.status, "trial.starts": str(row.starts)})

    def reported(self, row: TrialRow) -> None:
        if row.psnr_y is not None:
            self._run(row.name).metrics({"psnr_y": row.psnr_y}, step=row.step)

    def crashed(self, row: TrialRow) -> None:
        self._run(row.name).tags({"trial.status": row.status, "trial.error": row.error})

    def ended(self, row: TrialRow) -> None:
        """Also of a trial that never started."""
        run = self._run(row.name)
        sizes = {"params": row.params, "latency_ms": row.latency_ms, "seconds": row.seconds, "starts": row.starts}
        run.metrics({key: float(value) for key, value in sizes.items() if value is not None}, step=row.step)
        words = {"trial.status": row.status, "trial.error": row.error, "aggregator": row.aggregator}
        run.tags({key: word for key, word in words.items() if word})
        if row.rates:
            run.tags({"rates": str(row.rates)})
        run.finish("FAILED" if row.status == "failed" else "FINISHED")

    def _run(self, name: str) -> StageRun:
        """The child, begun or continued where it is not at work."""
        if name not in self._runs or self._runs[name].finished:
            self._runs[name] = self._tracker.stage(name)
        return self._runs[name]


def mark_best(tracker: Tracker, rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> None:
    """The tag `best` on every trial's child (true on one, false on the others), name and score on the parent."""
    chosen = best(rows, objectives)
    for row in rows:
        if row.starts:
            is_best = chosen is not None and row.name == chosen.row.name
            tracker.earlier(row.name).tags({"best": str(is_best).lower()})
    if chosen is not None and chosen.row.psnr_y is not None:
        tracker.run.tags({"best.trial": chosen.row.name, "best.status": chosen.row.status})
        tracker.run.metrics({"best_psnr_y": chosen.row.psnr_y})


def track_files(tracker: Tracker, files: Sequence[Path]) -> None:
    """Files of the sweep as artifacts of the parent; they are read later and must stay."""
    for file in files:
        tracker.run.artifact(file)


_living: list[TrackTrials] = []


def _the_living_one() -> TrackTrials:
    if not _living:
        raise RuntimeError("a sweep's callback was read back where none is at work; make a TrackTrials first")
    return _living[-1]


def reports_of(trial: str) -> list[dict[str, Any]]:
    """ "step" and "psnr_y" of all that a trial of the sweep at work has reported, before an interruption as well."""
    return _the_living_one().reports(trial)


class TrackTrials(Callback):
    """Turns what Tune says of its trials into rows and into MLflow runs.

    Tune pickles its callbacks when a sweep begins and reads them back where one is resumed. A tracker with its thread
    cannot go that way, so what is pickled is a name: the callback that the driver made last takes its place. What it
    knew of the trials comes by `get_state` and `set_state`, which Tune saves together with its own view of them.

    Args:
        tracker: a started one; the driver closes it.
        steps: of the target's training.
        texts: see `Texts`.
        watch: hears of each trial that crashed or ended, with all rows.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        tracker: Tracker,
        steps: int,
        texts: Texts,
        watch: Callable[[TrialRow, Sequence[TrialRow]], None] = lambda row, rows: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._ledger = Ledger(steps)
        self._runs = TrialRuns(tracker, texts)
        self._watch = watch
        self._clock = clock
        self._began = clock()
        self._earlier_seconds = 0.0
        self._resumes = False
        self.look: Callable[[set[str]], None] = lambda running: None
        """Called before each step of Tune, on its thread, with the names of the trials that run."""
        _living[:] = [self]

    def __reduce__(self) -> tuple[Callable[[], TrackTrials], tuple[()]]:
        return _the_living_one, ()

    def rows(self) -> list[TrialRow]:
        """What is known of all trials by now, by name."""
        return self._ledger.rows()

    def reports(self, trial: str) -> list[dict[str, Any]]:
        """See `reports_of`."""
        return self._ledger.reports(trial)

    def expect_state(self) -> None:
        """A sweep is resumed: Tune has to bring the state before anything runs, or else `on_step_begin` ends it.

        Tune itself would only log that it could not read its state, and search anew, for one trial.
        """
        self._resumes = True

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Errors: TrainingFailed."""
        if self._resumes:
            raise TrainingFailed(
                "the state of the search cannot be read (the log has the reason), so the sweep cannot go on; what its "
                "trials have trained lies in trials/NAME. Begin another one (--output); with this one's "
                "launch.answers.folder and teachers it has nothing to render or train again but the trials"
            )
        self.look({str(trial) for trial in trials if trial.status == Trial.RUNNING})

    def wall_seconds(self) -> float:
        """Since this was made, and before: of all earlier starts of the sweep, each up to where Tune last saved it."""
        return self._earlier_seconds + self._clock() - self._began

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        for other in trials:
            self._ledger.wait(str(other), other.config)
        self._runs.started(self._ledger.start(str(trial), trial.config, self._clock()))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        # A trial that ends before its first validation reports an empty result.
        if "psnr_y" in result:
            self._runs.reported(self._ledger.report(str(trial), result, self._clock()))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ledger.wait(str(trial), trial.config)
        self._ended(self._ledger.end(str(trial), self._clock()))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        # Also of a trial whose process could not be started.
        self._ledger.wait(str(trial), trial.config)
        row = self._ledger.crash(str(trial), error_text(trial), self._clock())
        self._runs.crashed(row)
        self._watch(row, self.rows())

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ledger.wait(str(trial), trial.config)
        self._ended(self._ledger.fail(str(trial), error_text(trial), self._clock()))

    def _ended(self, row: TrialRow) -> None:
        self._runs.ended(row)
        self._watch(row, self.rows())

    def get_state(self) -> dict[str, Any]:
        return self._ledger.state() | {"wall_seconds": self.wall_seconds()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._resumes = False
        self._ledger.restore(state)
        self._ledger.go_on()
        self._earlier_seconds = state["wall_seconds"]


def error_text(trial: Trial) -> str:
    """The root cause of a trial's last failure, in one line. From Tune's text file: its pickled error stays unread."""
    # Not `get_error`: it reads a copy that Tune may not have made yet.
    if trial.error_file is None:
        return "no error was written down"
    text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    # Tune adds to the file with each failure, under a line of its own.
    last = text.rpartition("Failure # ")[2].partition("\n")[2]
    return root_cause(RuntimeError(last)).splitlines()[0]
