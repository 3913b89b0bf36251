"""The split of the devices between the pools of a stage: given, chosen before, or what a probe says is fastest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtkd_dist.config.tree import Config, TrainingConfig
from mtkd_dist.pools.placement import Layout
from mtkd_dist.pools.split import (
    Costs,
    Devices,
    Forecast,
    Split,
    Step,
    best,
    cached_forecast,
    forecast,
    possible_splits,
)
from mtkd_dist.pools.teacher_worker import TeacherJob
from mtkd_dist.stages.manifest import write_json
from mtkd_dist.stages.run import Run, layout_of
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.probe import run_probe

FILE = "plan.json"
"""In the output folder: what was measured for each stage, and the split that follows from it."""

Jobs = Callable[[Layout], tuple[StudentJob, TeacherJob | None]]
"""What both pools would do in a layout."""


@dataclass(frozen=True)
class StagePlan:
    """What is known of a stage that has a teacher half before it runs."""

    devices: Devices
    step: Step
    costs: Costs
    forecasts: tuple[Forecast, ...]
    chosen: Forecast
    cached: Forecast
    """Where the teachers' answers are rendered first."""
    lr_pixels: int
    """Of all training photographs."""
    images: int
    """That the stage trains on in all."""


def choose_layout(run: Run, stage: str, training: TrainingConfig, jobs: Jobs) -> tuple[Layout, StagePlan | None]:
    """The pools of a stage with a teacher half, and the plan: None where there is no choice and no figures either.

    The same command chooses the same split again, however the measurements would turn out now. Errors: LayoutError,
    TrainingFailed.
    """
    given = layout_of(run.config, run.resources, training, True)
    splits = splits_of(run, training)
    if len(splits) < 2:
        costs = _known_costs(run, stage, training)
        return given, None if costs is None or not splits else _predict(run, training, costs)
    before = _known_costs(run, stage, training)
    plan = plan_stage(run, stage, training, jobs) if before is None else _predict(run, training, before)
    split = plan.chosen.split
    run.say(
        f"{stage}: {split.teachers} teacher and {split.students} student workers are the fastest of {len(splits)} "
        f"splits ({'measured' if before is None else 'as measured before'}): {plan.chosen.images_per_second:.1f} img/s "
        f"predicted, the limit is {plan.chosen.limit}"
    )
    return _layout(run, training, split), plan


def plan_stage(run: Run, stage: str, training: TrainingConfig, jobs: Jobs) -> StagePlan:
    """Measure, predict, choose, and write it down."""
    splits = splits_of(run, training)
    # Any split will do: a worker is the same in all of them.
    student, teacher = jobs(_layout(run, training, splits[0]))
    assert teacher is not None
    run.say(f"{stage}: measuring teachers and student")
    plan = _predict(run, training, run_probe(teacher, student, max(split.threads for split in splits)))
    entry = {"for": _depends_on(run, training)} | _record(plan)
    write_json(run.output / FILE, _read(run.output / FILE) | {stage: entry})
    return plan


def _known_costs(run: Run, stage: str, training: TrainingConfig) -> Costs | None:
    """What was measured before, of the same networks and settings."""
    entry = _read(run.output / FILE).get(stage, {})
    costs = entry.get("costs", {})
    whole = costs.keys() == {field.name for field in dataclasses.fields(Costs)}
    return Costs(**costs) if whole and entry.get("for") == _depends_on(run, training) else None


def _predict(run: Run, training: TrainingConfig, costs: Costs) -> StagePlan:
    devices, step = devices_of(run), step_of(run.config, training)
    lr_pixels = sum(height * width for height, width in run.images.lr_sizes)
    forecasts = tuple(forecast(costs, split, step) for split in splits_of(run, training))
    return StagePlan(
        devices,
        step,
        costs,
        forecasts,
        best(list(forecasts)),
        cached_forecast(costs, devices, step, lr_pixels),
        lr_pixels,
        training.steps * training.batch_size,
    )


def devices_of(run: Run) -> Devices:
    gpus = run.resources.gpus if run.config.num_gpus is None else run.config.num_gpus
    return Devices(gpus, "GPU") if gpus else Devices(run.resources.cpus, "CPU", run.resources.nodes)


def step_of(config: Config, training: TrainingConfig) -> Step:
    return Step(training.batch_size, training.batch_size // config.link.slot_size)


def splits_of(run: Run, training: TrainingConfig) -> list[Split]:
    """Those that the flags leave open."""
    config, devices = run.config, devices_of(run)
    teachers, students = config.cluster.teacher_workers, config.cluster.student_workers
    if devices.kind == "GPU":
        # Of two pools, one number gives the other.
        teachers, students = config.teacher_gpus, config.student_gpus
        if teachers is not None or students is not None:
            teachers = devices.count - (students or 0) if teachers is None else teachers
            students = devices.count - teachers if students is None else students
    return possible_splits(devices, step_of(config, training), teachers, students)


def _layout(run: Run, training: TrainingConfig, split: Split) -> Layout:
    config = run.config
    if split.shared:
        return layout_of(config, run.resources, training, True)
    if devices_of(run).kind == "GPU":
        config = dataclasses.replace(config, teacher_gpus=split.teachers, student_gpus=split.students)
    else:
        workers = dataclasses.replace(config.cluster, teacher_workers=split.teachers, student_workers=split.students)
        config = dataclasses.replace(config, cluster=workers)
    return layout_of(config, run.resources, training, True)


def _depends_on(run: Run, training: TrainingConfig) -> dict[str, Any]:
    """All that seconds depend on: networks by name, sizes, arithmetic, the kind of device. Never weights."""
    config, devices = run.config, devices_of(run)
    # Named only where they are not the default: what was measured before there was a choice stays known.
    chosen: dict[str, Any] = {} if config.method == Config().method else {"method": config.method}
    chosen |= {"more_students": list(config.more_students)} if config.more_students else {}
    return chosen | {
        "teachers": list(config.teachers),
        "aggregator": config.aggregator,
        "student": config.student,
        "scale": config.scale,
        "batch_size": training.batch_size,
        "patch": training.patch,
        "precision": training.precision,
        "teacher_precision": config.teacher_precision,
        "channels_last": training.channels_last,
        "compile": training.compile,
        "slot_size": config.link.slot_size,
        "wire": config.link.wire,
        "device": "GPU" if devices.kind == "GPU" else f"{devices.count} CPUs of {devices.nodes} node(s)",
    }


def _record(plan: StagePlan) -> dict[str, Any]:
    return {
        "costs": dataclasses.asdict(plan.costs),
        "devices": dataclasses.asdict(plan.devices),
        "chosen": dataclasses.asdict(plan.chosen),
        "cached": dataclasses.asdict(plan.cached),
        "splits": [dataclasses.asdict(one) for one in plan.forecasts],
    }


def _read(path: Path) -> dict[str, Any]:
    """{} where there is none, or none that can be read: then it is measured again."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
