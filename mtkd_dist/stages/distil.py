"""Stage `distil`: the student learns from the aggregated image."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mtkd_dist.models import build_network, digest_file, load_strict, parse_network, save_network, teachers_text
from mtkd_dist.stages.answers import rendered_teachers
from mtkd_dist.stages.distil_method import distil_method
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.stages.training import Training, train_stage


def run_distil(run: Run, teachers: ReadyTeachers, aggregator: Path, cached: bool = False) -> Path:
    """Train the student; returns its file. `cached`: on aggregates that are rendered first."""
    config = run.config
    path = run.output / "student.safetensors"
    network = parse_network(config.student).text
    metadata = {
        "network": network,
        "scale": str(config.scale),
        "method": "mtkd",
        "teachers": teachers_text(teachers.digests),
    }

    def write(weights: dict[str, Tensor]) -> list[Path]:
        student = build_network(network, config.scale)
        load_strict(student, weights, "distil")
        save_network(path, student, metadata)
        return [path]

    start = Path(config.student_weights).resolve() if config.student_weights is not None else None
    training = Training(
        "distil",
        network,
        distil_method(config),
        config.distil,
        metadata,
        teachers=teachers.files,
        teacher_digests=teachers.digests,
        aggregator=aggregator,
        aggregator_digest=digest_file(aggregator),
        start=start,
        start_digest=digest_file(start) if start is not None else None,
        rendered=rendered_teachers(run, teachers.files, teachers.digests, aggregator) if cached else None,
    )
    train_stage(run, training, write)
    return path
