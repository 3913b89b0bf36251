"""Stage `aggregate`: the aggregator learns to turn the teachers' images into the truth."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from mtkd_dist.methods import Aggregation
from mtkd_dist.models import build_aggregator, load_strict, parse_aggregator, save_aggregator
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.stages.training import Training, train_stage


def run_aggregate(run: Run, teachers: ReadyTeachers) -> Path:
    """Train the aggregator; returns its file."""
    config = run.config
    path = run.output / "aggregator.safetensors"
    network = parse_aggregator(config.aggregator).text
    names = [file.name for file in teachers.files]

    def write(weights: dict[str, Tensor]) -> list[Path]:
        aggregator = build_aggregator(network, len(names), config.scale)
        load_strict(aggregator, weights, "aggregate")
        save_aggregator(path, aggregator, network, config.scale, names)
        return [path]

    training = Training(
        "aggregate",
        network,
        Aggregation(),
        config.aggregate,
        teachers=teachers.files,
        teacher_digests=teachers.digests,
        trains_aggregator=True,
    )
    train_stage(run, training, write)
    return path
