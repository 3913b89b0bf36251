"""Who trains and renders for the stages of one training among many (a trial, a cell of a comparison): this process."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mtkd_dist.command import alone_in
from mtkd_dist.pools.device import pick_device
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.pools.render import Renderer, Rendering
from mtkd_dist.report.history import History
from mtkd_dist.report.progress import Progress
from mtkd_dist.stages.answers import outputs_folder
from mtkd_dist.stages.course import Course
from mtkd_dist.stages.half_done import history_of
from mtkd_dist.stages.manifest import write_json
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.training import Training, jobs_of, validation_of
from mtkd_dist.train.alone import train_alone
from mtkd_dist.train.live import LiveTeachers
from mtkd_dist.train.news import Update
from mtkd_dist.train.stopping import nobody_asks

SCORES = "scores.json"
"""Beside the checkpoints: the records of all validations so far, whoever made them."""

_BUSY = "another process renders into {}; waiting"


class OneProcess:
    """An `Engine`.

    Args:
        name: of the trial or cell.
        pool: what it reserved.
        live: who answers where nothing is rendered.
        note: takes what they have to say; it travels to them.
        begins: called before each training, with its stage and the folder of its checkpoints.
        scored: hears of each validation of a training, with its stage; first of those that are known from before.
        asked_to_stop: whether trainings are to save and end (`Saved`).
    """

    def __init__(
        self,
        name: str,
        pool: PoolSize,
        live: LiveTeachers | None,
        note: Callable[[str], object],
        begins: Callable[[str, Path], None] = lambda stage, checkpoints: None,
        scored: Callable[[str, dict[str, Any], Path], None] = lambda stage, record, checkpoints: None,
        asked_to_stop: Callable[[], bool] = nobody_asks,
    ) -> None:
        self._name = name
        self._pool = pool
        self._live = live
        self._note = note
        self._begins = begins
        self._scored = scored
        self._asked_to_stop = asked_to_stop

    def train(self, run: Run, training: Training, checkpoints: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The summary also says who "trained_by" it was, and the "validations"."""
        stage = training.stage
        self._begins(stage, checkpoints)
        layout = Layout(self._pool, None)
        run.say(f"{stage}: {training.network} on {layout}")
        # What the teachers reserved is their own affair.
        student, teacher = jobs_of(run, training, dataclasses.replace(layout, teachers=self._pool))
        scores = {record["step"]: record for record in scores_in(checkpoints)}
        for record in list(scores.values()):
            self._scored(stage, record, checkpoints)
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(Progress(run.console, stage, training.config.steps))
            tracked = run.tracker.stage(stage)
            history = stack.enter_context(History(history_of(checkpoints), training.config.steps, run.say))
            course = Course(stage, layout, student, run.config.link, progress, tracked, history, run.say)

            def validated(record: dict[str, Any]) -> None:
                scores[record["step"]] = record
                write_json(checkpoints / SCORES, list(scores.values()))
                course.update(_update(validations=[record]))
                self._scored(stage, record, checkpoints)

            source = None
            if training.teachers and training.rendered is None:
                assert self._live is not None
                assert teacher is not None
                source = stack.enter_context(self._live(teacher, student, run.config.link, self._note))
            validation = validation_of(run, training, student, checkpoints)
            weights = train_alone(
                student,
                checkpoints,
                # So that of all aggregators only the first waits for the teachers.
                validation and dataclasses.replace(validation, kept=outputs_folder(run)),
                validated,
                lambda note: course.update(_update(notes=[note])),
                source,
                lambda records: course.update(_update(records=records)),
                self._asked_to_stop,
            )
        return weights, course.summary() | {"trained_by": self._name, "validations": list(scores.values())}

    def render(self, renderings: Sequence[Rendering]) -> Iterator[tuple[str, int]]:
        renderer = Renderer(pick_device(self._pool.gpus > 0))
        for rendering in renderings:
            outputs, name = rendering.outputs, rendering.network.name
            missing = outputs.missing()
            with alone_in(outputs.folder, functools.partial(self._note, _BUSY.format(outputs.folder))):
                outputs.create()
                for index in missing:
                    if not outputs.has(index):  # another process was faster
                        renderer.render(rendering, index)
                    yield name, index


def _update(
    records: Sequence[dict[str, Any]] = (),
    validations: Sequence[dict[str, Any]] = (),
    notes: Sequence[str] = (),
) -> Update:
    return Update(list(records), None, {}, list(validations), list(notes))


def scores_in(checkpoints: Path) -> list[dict[str, Any]]:
    """[] where there is none yet."""
    try:
        found: list[dict[str, Any]] = json.loads((checkpoints / SCORES).read_text())
    except FileNotFoundError:
        return []
    return found
