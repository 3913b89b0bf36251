"""The trials of a sweep under Ray Tune: who runs when, on what, and again after a crash.

A trial is one process that trains by itself. It starts no actors of its own but a link, so nothing inherits the
placement group in which Tune puts it, and nothing stays reserved when it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.tune import Checkpoint, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial

from mtkd_dist.pools.board import AskedToStop, start_board
from mtkd_dist.pools.interrupts import FINISHING, Leave, leaving
from mtkd_dist.train.stopping import Saved
from mtkd_tune.room import Room
from mtkd_tune.search import REFUSED, scheduler, searcher
from mtkd_tune.shared import Shared
from mtkd_tune.space import Space
from mtkd_tune.tracking import TrackTrials, reports_of
from mtkd_tune.tree import SweepConfig
from mtkd_tune.trial import run_trial

FOLDER = "ray-tune"
SNAPSHOT_SECONDS = "5"
"""So often Tune writes down what it knows; what a killed sweep has done since is found in the folders of its trials."""


def run_trials(
    sweep: SweepConfig,
    space: Space,
    shared: Shared,
    room: Room,
    output: Path,
    track: TrackTrials,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """All trials, or those that an interrupted sweep in `output` has not finished; what they report goes to `track`.

    Returns when they are done, or after Ctrl-C, once trials have saved where they are and the state is written down.
    """
    board = start_board()
    shared = dataclasses.replace(shared, asked_to_stop=AskedToStop(board))
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = SNAPSHOT_SECONDS
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # Tune would end the trials at once. Its other signal, SIGUSR1, does the same and is left to `_Ending`.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    trainable = tune.with_resources(
        tune.with_parameters(_trial, space=space, shared=shared, board=board),
        {"CPU": room.trial.cpus} | ({"GPU": room.trial.gpus} if room.trial.gpus else {}),
    )
    experiment = str(output / FOLDER)
    population = sweep.scheduler == "pbt"
    if has_state(output):
        track.expect_state()
        # With the search, the limits and the callback of its beginning. Failed trials are tried again.
        tuner = Tuner.restore(experiment, trainable, resume_errored=True)
    else:
        tuner = Tuner(
            trainable,
            tune_config=TuneConfig(
                search_alg=searcher(space, sweep, shared.config, output / REFUSED),
                scheduler=scheduler(space, sweep, shared.config, reports_of),
                num_samples=sweep.pbt.population if population else sweep.num_samples,
                # A population trains by turns where there is no room for all; else the search waits for what it learns.
                max_concurrent_trials=None if population else room.concurrent,
                trial_name_creator=name_of,
                trial_dirname_creator=name_of,
            ),
            run_config=RunConfig(
                name=FOLDER,
                storage_path=str(output),
                failure_config=FailureConfig(max_failures=sweep.trial.retries),
                callbacks=[track],
                verbose=0,
            ),
        )
    with leaving() as leave:
        track.look = _Ending(leave, board, say).look
        tuner.fit()


class _Ending:
    """After the first Ctrl-C: has trials save, and then Tune end."""

    def __init__(self, leave: Leave, board: ActorHandle, say: Callable[[str], None]) -> None:
        self._leave = leave
        self._board = board
        self._say = say
        self._told = False
        self._saved: set[str] = set()

    def look(self, running: set[str]) -> None:
        """`running`: names of the trials that are at work."""
        if not self._leave.asked:
            return
        if not self._told:
            self._say(f"trials  {FINISHING}")
            self._board.stop.remote()
            self._told = True
        with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
            self._saved = {record["saved"] for record in ray.get(self._board.read.remote(0), timeout=1)}
        if running <= self._saved or self._leave.overdue:
            # Tune then writes down how the search stands, as after a Ctrl-C of its own.
            signal.raise_signal(signal.SIGUSR1)


def has_state(output: Path) -> bool:
    """Whether Tune has begun a search in the folder of a sweep, and has written down how it stands."""
    folder = output / FOLDER
    return Tuner.can_restore(str(folder)) and any(folder.glob("experiment_state-*.json"))


def name_of(trial: Trial) -> str:
    """trial-0003, by the order in which they were chosen; Tune writes that first into the tag."""
    return f"trial-{int(trial.experiment_tag.partition('_')[0]):04d}"


def _trial(values: Mapping[str, Any], *, space: Space, shared: Shared, board: ActorHandle) -> None:
    """In the trial's process."""
    name = tune.get_context().get_trial_name()
    handed_over = tune.get_checkpoint()

    def report(metrics: Mapping[str, Any], folder: Path | None = None) -> None:
        tune.report(dict(metrics), checkpoint=Checkpoint.from_directory(str(folder)) if folder is not None else None)

    with handed_over.as_directory() if handed_over is not None else contextlib.nullcontext() as folder:
        config = space.config(shared.config, values)
        try:
            run_trial(config, shared, name, report, Path(folder) if folder is not None else None)
        except Saved:
            # To end here would mean to have failed, and to be started again.
            board.post.remote([{"saved": name}])
            threading.Event().wait()
