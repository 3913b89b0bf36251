"""The trials of a sweep under Ray Tune: who runs when, on what, and again after a crash.

A trial is one process that trains by itself. It starts no actors of its own but a link, so nothing inherits the
placement group in which Tune puts it, and nothing stays reserved when it ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Checkpoint, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial

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


def run_trials(sweep: SweepConfig, space: Space, shared: Shared, room: Room, output: Path, track: TrackTrials) -> None:
    """All trials, or those that an interrupted sweep in `output` has not finished; what they report goes to `track`.

    Returns when they are done, or after Ctrl-C, once the state is written down.
    """
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = SNAPSHOT_SECONDS
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    trainable = tune.with_resources(
        tune.with_parameters(_trial, space=space, shared=shared),
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
    tuner.fit()


def has_state(output: Path) -> bool:
    """Whether Tune has begun a search in the folder of a sweep, and has written down how it stands."""
    folder = output / FOLDER
    return Tuner.can_restore(str(folder)) and any(folder.glob("experiment_state-*.json"))


def name_of(trial: Trial) -> str:
    """trial-0003, by the order in which they were chosen; Tune writes that first into the tag."""
    return f"trial-{int(trial.experiment_tag.partition('_')[0]):04d}"


def _trial(values: Mapping[str, Any], *, space: Space, shared: Shared) -> None:
    """In the trial's process."""
    name = tune.get_context().get_trial_name()
    handed_over = tune.get_checkpoint()

    def report(metrics: Mapping[str, Any], folder: Path | None = None) -> None:
        tune.report(dict(metrics), checkpoint=Checkpoint.from_directory(str(folder)) if folder is not None else None)

    with handed_over.as_directory() if handed_over is not None else contextlib.nullcontext() as folder:
        config = space.config(shared.config, values)
        run_trial(config, shared, name, report, Path(folder) if folder is not None else None)
