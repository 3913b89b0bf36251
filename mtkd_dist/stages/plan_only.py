"""`--plan-only`: what each split of the devices would do, for all stages that have two pools, and nothing else."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from mtkd_dist.models import (
    aggregator_metadata,
    aggregator_path,
    build_aggregator,
    build_network,
    digest_file,
    parse_aggregator,
    save_network,
)
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.report.split_table import split_table
from mtkd_dist.stages.aggregate import aggregate_training
from mtkd_dist.stages.distil import distil_training
from mtkd_dist.stages.distil_method import distil_method, needs_aggregator
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.split import FILE, plan_stage
from mtkd_dist.stages.teacher_spec import TeacherSpec, parse_teachers
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.stages.training import Training, jobs_of


def show_plan(run: Run) -> dict[str, Any]:
    """Measure all stages with two pools anew, print their tables, leave `plan.json` for the run that follows.

    Returns what that file holds.

    What is still to be trained is measured with random weights, on which its time does not depend.
    """
    if not distil_method(run.config).needs_teachers:
        run.say(f"The method {run.config.method} asks no teachers: all devices are the student's, nothing is to split.")
        return {}
    # In the output folder, which all nodes see.
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=run.output) as folder:
        teachers = _teachers(run, Path(folder))
        aggregator = _aggregator(run, teachers, Path(folder)) if needs_aggregator(run.config) else None
        trains_aggregator = aggregator is not None and not aggregator_path(run.config.aggregator)
        trainings = [aggregate_training(run, teachers)] if trains_aggregator else []
        trainings.append(distil_training(run, teachers, aggregator))
        for training in trainings:
            _show(run, training)
    run.say(f"The run takes these splits from {run.output / FILE}; the flags of the pools win over it.")
    plans: dict[str, Any] = json.loads((run.output / FILE).read_text())
    return plans


def _show(run: Run, training: Training) -> None:
    jobs = functools.partial(jobs_of, run, training)
    plan = plan_stage(run, training.stage, training.config, jobs)
    title = f"{training.stage}: {training.config.steps} steps of {plan.step.batch_size} images"
    with even_if_quiet(run.console):
        run.console.print(
            split_table(title, plan.devices.kind, plan.costs, plan.forecasts, plan.chosen, plan.cached, plan.images)
        )


def _teachers(run: Run, folder: Path) -> ReadyTeachers:
    files = tuple(_teacher(spec, run.config.scale, folder) for spec in parse_teachers(run.config.teachers))
    return ReadyTeachers(files, {file.name: digest_file(file.path) for file in files}, params={})


def _teacher(spec: TeacherSpec, scale: int, folder: Path) -> TeacherFile:
    if spec.path is not None:
        return TeacherFile(spec.name, spec.path.resolve(), spec.input_range)
    assert spec.network is not None
    path = folder / f"{spec.name}.safetensors"
    save_network(path, build_network(spec.network, scale), {"network": spec.network, "scale": str(scale)})
    return TeacherFile(spec.name, path, None)


def _aggregator(run: Run, teachers: ReadyTeachers, folder: Path) -> Path:
    given = aggregator_path(run.config.aggregator)
    if given is not None:
        return given.resolve()
    network = parse_aggregator(run.config.aggregator).text
    path = folder / "aggregator.safetensors"
    aggregator = build_aggregator(network, len(teachers.files), run.config.scale)
    save_network(path, aggregator, aggregator_metadata(network, run.config.scale, teachers.digests))
    return path
