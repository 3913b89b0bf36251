"""What the process of a cell does: train, score, and leave both in the cell's folder. Knows nothing of Ray.

Everything is done once: called again, it goes on from the last checkpoint, or takes what is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mtkd_dist.compare.shared import Shared
from mtkd_dist.compare.work import Work, config_of, config_of_method
from mtkd_dist.config.tree import Config, TrainingConfig
from mtkd_dist.data import ImageStore
from mtkd_dist.methods import images_asked, values_sent, values_sent_by
from mtkd_dist.models import digest_file, load_network
from mtkd_dist.one_process import OneProcess
from mtkd_dist.pools.device import use_threads
from mtkd_dist.pools.evaluate import AGGREGATE, MEAN, EvaluateJob, Merged, score_photos_here
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.teacher_worker import TeacherFile, load_networks
from mtkd_dist.pools.wire import sample_bytes
from mtkd_dist.report.comparison import Cell, Scores
from mtkd_dist.report.screen import WIDTH_OF_A_FILE
from mtkd_dist.stages import manifest
from mtkd_dist.stages.aggregate import run_aggregate
from mtkd_dist.stages.answers import prepare, rendered_teachers
from mtkd_dist.stages.check_method import needs_networks
from mtkd_dist.stages.distil import distil_training, run_distil, student_file
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.stages.training import Training
from mtkd_dist.tracking.tracker import Untracked
from mtkd_dist.train.answered_here import answered_here
from mtkd_dist.train.stopping import Saved

LOG = "cell.log"
NOBODY = ReadyTeachers((), {}, {})


def train_aggregator(shared: Shared, seed: int) -> Path:
    """The aggregator of one seed, and its image of every photograph where images are rendered; returns its file."""
    config = dataclasses.replace(config_of_method(shared.config, "mtkd"), seed=seed)
    with _run(shared, config, f"aggregators/seed-{seed}") as run:
        cached = config.teacher_outputs == "cached"
        path = run_aggregate(run, shared.teachers, cached)
        if cached:
            prepare(run, rendered_teachers(run, shared.teachers.files, shared.teachers.digests, path))
    return path


def do_work(shared: Shared, work: Work, aggregator: Path | None) -> list[Cell]:
    """Train and score the student, or the students, of `work`. `aggregator`: its file, where the method has one."""
    config = config_of(shared.config, work)
    with _run(shared, config, work.folder) as run:
        teachers = shared.teachers if config.teachers else NOBODY
        cached = config.teacher_outputs == "cached"
        training = distil_training(run, teachers, aggregator, cached)
        run_distil(run, teachers, aggregator, cached)
        files = [student_file(run, net.name) for net in training.students]
        found = manifest.read(run.output / training.stage)
        assert found is not None
        bytes_per_sample = _bytes_per_sample(run, training)
        return [
            Cell(
                method=work.method,
                student=student,
                seed=work.seed,
                steps=config.distil.steps,
                seconds=_seconds(found, config.distil) / len(work.students),
                bytes_per_sample=bytes_per_sample,
                params=load_network(file, config.scale).params,
                scores=_scores(run, shared, student, TeacherFile(student, file, None), file),
            )
            for student, file in zip(work.students, files, strict=True)
        ]


def score_references(shared: Shared, aggregators: dict[int, Path]) -> dict[str, Scores]:
    """What students are measured by: bicubic, each teacher, their mean, and the aggregate of each seed."""
    with _run(shared, config_of_method(shared.config, "mtkd"), "references") as run:
        teachers = shared.teachers.files
        aggregates = {f"{AGGREGATE} (seed {seed})": path for seed, path in aggregators.items()}
        mean = [Merged(MEAN, teachers, None)] if teachers else []
        job = EvaluateJob(
            run.config.scale, (*teachers, *mean, *(Merged(name, teachers, path) for name, path in aggregates.items()))
        )
        weights = shared.teachers.digests | {name: digest_file(path) for name, path in aggregates.items()}
        return _scored_before(run, "scores", {"weights": weights, "sets": shared.sets}, job, shared)


@contextlib.contextmanager
def _run(shared: Shared, config: Config, folder: str) -> Iterator[Run]:
    """A launch's `Run` in a folder of the comparison, with a log there of what it says and what goes wrong in it.

    Errors: Saved where the comparison was asked to stop, before anything is begun or in the middle of a training.
    """
    if shared.asked_to_stop():
        raise Saved(0, config.distil.steps)
    output = shared.output / folder
    output.mkdir(parents=True, exist_ok=True)
    use_threads(shared.pool.threads)
    with (output / LOG).open("a", buffering=1, encoding="utf-8") as log:
        console = Console(file=log, width=WIDTH_OF_A_FILE)

        def note(text: str) -> None:
            console.print(text, markup=False, highlight=False)

        try:
            yield Run(
                config,
                output,
                console,
                Untracked(),
                Resources(shared.pool.threads, 1 if shared.pool.gpus else 0),
                ImageStore.open(shared.images),
                ImageStore.open(shared.validation) if shared.validation is not None else None,
                {},
                engine=OneProcess(folder, shared.pool, answered_here, note, asked_to_stop=shared.asked_to_stop),
            )
        except Saved as saved:
            note(str(saved))
            raise
        except Exception:
            console.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
            raise


def _seconds(found: Manifest, training: TrainingConfig) -> float:
    """Of a whole training at the median rate of its course: it may have been interrupted, or disturbed for a while."""
    rate = found.summary.get("images_per_second")
    return training.steps * training.batch_size / rate if rate else found.seconds


def _bytes_per_sample(run: Run, training: Training) -> int:
    """What a student reads for one sample: LR, HR and the teachers' signals, as they travel or as they are stored."""
    config, method, patch = run.config, training.method, training.config.patch
    if needs_networks(config):
        networks = load_networks(training.teachers, None, config.scale, torch.device("cpu"))
        return sample_bytes(
            patch, config.scale, values_sent_by(method, networks, config.scale, patch), config.link.wire
        )
    count = len(config.teachers)
    if training.rendered is None:
        return sample_bytes(patch, config.scale, values_sent(method, count, config.scale, patch), config.link.wire)
    # Whatever the method makes of them: what is stored are whole images.
    images = {"teachers": count, "aggregate": 1}
    read = sum(images[asked] for asked in images_asked(method, count, config.scale))
    return sample_bytes(patch, config.scale, 3 * (config.scale * patch) ** 2 * read, config.answers.dtype)


def _scores(run: Run, shared: Shared, name: str, model: TeacherFile, file: Path) -> Scores:
    job = EvaluateJob(run.config.scale, (model,), bicubic=False)
    inputs = {"weights": digest_file(file), "sets": shared.sets}
    return _scored_before(run, f"scores/{file.stem}", inputs, job, shared)[name]


def _scored_before(run: Run, stage: str, inputs: dict[str, Any], job: EvaluateJob, shared: Shared) -> dict[str, Scores]:
    """Model -> its scores; those that the stage's folder holds of the same weights and photographs are taken."""
    folder = run.output / stage
    old = manifest.read(folder)
    if old is not None and not manifest.changed(old, inputs, {}):
        return old.summary
    began = time.monotonic()
    scores: dict[str, Any] = {}
    for scored in score_photos_here([job], shared.photos, reserved_gpu=shared.pool.gpus > 0):
        for model, metrics in scored.scores.items():
            of_set = scores.setdefault(model, {}).setdefault(scored.set, {})
            of_set[scored.image] = [metrics["psnr_y"], metrics["ssim_y"]]  # as JSON has them
    folder.mkdir(parents=True, exist_ok=True)
    seconds = time.monotonic() - began
    manifest.write(folder, Manifest(stage, inputs, {}, run.config.seed, seconds, summary=scores))
    return scores
