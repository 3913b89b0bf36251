"""Stage `distil`: the student learns as the method says."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mtkd_dist.models import build_network, digest_file, load_strict, parse_network, save_network, teachers_text
from mtkd_dist.stages.answers import rendered_teachers
from mtkd_dist.stages.distil_method import distil_method
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.stages.training import Training, train_stage

STAGE = "distil"


def run_distil(run: Run, teachers: ReadyTeachers, aggregator: Path | None, cached: bool = False) -> Path:
    """Train the student; returns its file.

    `aggregator`: its file, where the method has one. `cached`: on images that are rendered first.
    """
    training = distil_training(run, teachers, aggregator, cached)
    path = run.output / "student.safetensors"

    def write(weights: dict[str, Tensor]) -> list[Path]:
        student = build_network(training.network, run.config.scale)
        load_strict(student, weights, STAGE)
        save_network(path, student, dict(training.metadata))
        return [path]

    train_stage(run, training, write)
    return path


def distil_training(run: Run, teachers: ReadyTeachers, aggregator: Path | None, cached: bool = False) -> Training:
    config = run.config
    network = parse_network(config.student).text
    start = Path(config.student_weights).resolve() if config.student_weights is not None else None
    return Training(
        STAGE,
        network,
        distil_method(config),
        config.distil,
        {
            "network": network,
            "scale": str(config.scale),
            "method": config.method,
            "teachers": teachers_text(teachers.digests),
        },
        teachers=teachers.files,
        teacher_digests=teachers.digests,
        aggregator=aggregator,
        aggregator_digest=digest_file(aggregator) if aggregator is not None else None,
        start=start,
        start_digest=digest_file(start) if start is not None else None,
        rendered=rendered_teachers(run, teachers.files, teachers.digests, aggregator)
        if cached and teachers.files
        else None,
    )
