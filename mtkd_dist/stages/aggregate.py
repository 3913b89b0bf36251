"""Stage `aggregate`: the aggregator learns to turn the teachers' images into the truth, or one is given that does."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from torch import Tensor

from mtkd_dist.methods import Aggregation
from mtkd_dist.models import (
    aggregator_metadata,
    aggregator_path,
    build_aggregator,
    digest_file,
    load_aggregator,
    load_strict,
    parse_aggregator,
    save_network,
)
from mtkd_dist.stages import half_done, manifest
from mtkd_dist.stages.answers import rendered_teachers
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.stages.training import Training, train_stage

STAGE = "aggregate"
FILE = "aggregator.safetensors"


def run_aggregate(run: Run, teachers: ReadyTeachers, cached: bool = False) -> Path:
    """Train the aggregator, or take the one that is given; returns its file in the output folder.

    `cached`: on teachers' images that are rendered first, instead of asking a teacher pool.
    """
    given = aggregator_path(run.config.aggregator)
    return _trained(run, teachers, cached) if given is None else _given(run, teachers, given)


def aggregate_training(run: Run, teachers: ReadyTeachers, cached: bool = False) -> Training:
    """What is trained where no aggregator is given."""
    network = parse_aggregator(run.config.aggregator).text
    return Training(
        STAGE,
        network,
        Aggregation(),
        run.config.aggregate,
        aggregator_metadata(network, run.config.scale, teachers.digests),
        teachers=teachers.files,
        teacher_digests=teachers.digests,
        trains_aggregator=True,
        rendered=rendered_teachers(run, teachers.files, teachers.digests) if cached else None,
    )


def _trained(run: Run, teachers: ReadyTeachers, cached: bool) -> Path:
    training = aggregate_training(run, teachers, cached)
    path = run.output / FILE

    def write(weights: dict[str, Tensor]) -> list[Path]:
        aggregator = build_aggregator(training.network, len(teachers.files), run.config.scale)
        load_strict(aggregator, weights, STAGE)
        save_network(path, aggregator, dict(training.metadata))
        return [path]

    train_stage(run, training, write)
    return path


def _given(run: Run, teachers: ReadyTeachers, given: Path) -> Path:
    """Errors: FileNotFoundError, ValueError as `load_aggregator`; StageChanged."""
    folder, path = run.output / STAGE, run.output / FILE
    inputs = {"file": digest_file(given), "teachers": teachers.digests, "scale": run.config.scale}
    old = manifest.read(folder)
    if old is not None and not manifest.changed(old, inputs, manifest.digests(run.output, old.outputs)):
        run.say(f"{STAGE}: taken before")
        return path
    if old is not None and run.config.on_change == "refuse" and inputs["file"] not in old.outputs.values():
        half_done.check_later(STAGE, run.output, old, [f"aggregator: {old.outputs[FILE][:12]} -> {given}"])
    began = time.monotonic()
    load_aggregator(given, teachers.digests, run.config.scale)
    # By way of a second name: the file that is given may be the very one in the output folder.
    copy = path.with_name(f".{path.name}.tmp")
    shutil.copyfile(given, copy)
    os.replace(copy, path)
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write(
        folder,
        Manifest(
            stage=STAGE,
            inputs=inputs,
            outputs={FILE: digest_file(path)},
            seed=run.config.seed,
            seconds=time.monotonic() - began,
            summary={"path": str(given.resolve())},
        ),
    )
    tracked = run.tracker.stage(STAGE)
    tracked.params({"path": given.resolve()})
    tracked.finish()
    run.say(f"{STAGE}: nothing to train, the aggregator is {given}")
    return path
