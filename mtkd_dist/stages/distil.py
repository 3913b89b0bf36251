"""Stage `distil`: the student learns as the method says."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mtkd_dist.models import build_network, digest_file, load_strict, parse_network, save_network, teachers_text
from mtkd_dist.stages.answers import rendered_teachers
from mtkd_dist.stages.distil_method import distil_method, method_title
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.students import more_students, title_of
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.stages.training import Training, train_stage
from mtkd_dist.train.students import MAIN

STAGE = "distil"


def run_distil(run: Run, teachers: ReadyTeachers, aggregator: Path | None, cached: bool = False) -> Path:
    """Train the student, and `more_students` beside it; returns its file, beside which the others lie.

    `aggregator`: its file, where the method has one. `cached`: on images that are rendered first.
    """
    training = distil_training(run, teachers, aggregator, cached)

    def write(weights: dict[str, Tensor]) -> list[Path]:
        by_student = training.by_student(weights)
        for net in training.students:
            student = build_network(net.network, run.config.scale)
            load_strict(student, by_student[net.name], f"{STAGE}, {title_of(net.name)}")
            save_network(student_file(run, net.name), student, net.metadata(training.metadata))
        return [student_file(run, net.name) for net in training.students]

    train_stage(run, training, write)
    return student_file(run, MAIN)


def student_file(run: Run, name: str) -> Path:
    """Of the student that is called `name` in its training."""
    return run.output / f"{title_of(name)}.safetensors"


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
            "method": method_title(config.method),
            "teachers": teachers_text(teachers.digests),
        },
        teachers=teachers.files,
        teacher_digests=teachers.digests,
        aggregator=aggregator,
        aggregator_digest=digest_file(aggregator) if aggregator is not None else None,
        start=start,
        start_digest=digest_file(start) if start is not None else None,
        more=more_students(config),
        rendered=rendered_teachers(run, teachers.files, teachers.digests, aggregator)
        if cached and teachers.files
        else None,
    )
