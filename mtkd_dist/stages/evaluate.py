"""Stage `evaluate`: scores of every model on every test set, and pictures to look at."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from mtkd_dist.models import check_student, digest_file, load_network
from mtkd_dist.models.registry import count_params
from mtkd_dist.pools.evaluate import (
    AGGREGATE,
    BICUBIC,
    MEAN,
    STUDENT,
    EvaluateJob,
    Merged,
    Scored,
    StoredPhoto,
    score_photos,
)
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.stages import manifest
from mtkd_dist.stages.details import STRIPS, most_different_photos, remove_details, write_details
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.scores import About, Row, band_rows, mean_rows
from mtkd_dist.stages.students import student_titles
from mtkd_dist.stages.teachers import ReadyTeachers

BANDS = "evaluate/error_bands.json"
"""In the output folder: the spectrum of each model's error on each set."""


def run_evaluate(run: Run, teachers: ReadyTeachers, aggregator: Path | None, student: Path) -> list[Row]:
    """Score, or take the scores of these very files from before; returns the rows of scores.json.

    `aggregator`: of a method that has one; without teachers there is no mean either. `student`: the main one's file,
    beside which those of `more_students` lie.
    """
    students = {title: student.with_name(f"{title}.safetensors") for title in student_titles(run.config)}
    students[STUDENT] = student
    folder = run.output / "evaluate"
    inputs = {
        "scale": run.config.scale,
        "teachers": [[f.name, teachers.digests[f.name], f.input_range] for f in teachers.files],
        "aggregator": digest_file(aggregator) if aggregator is not None else None,
        "student": digest_file(student),
        "sets": {name: store.digest for name, store in run.sets.items()},
    }
    if len(students) > 1:
        inputs["more_students"] = {title: digest_file(file) for title, file in students.items() if title != STUDENT}
    old = manifest.read(folder)
    if old is not None and not manifest.changed(old, inputs, manifest.digests(run.output, old.outputs)):
        run.say("evaluate: done before")
        return old.scores
    for file in students.values():
        check_student(file, teachers.digests, run.config.scale)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    mean = [Merged(MEAN, teachers.files, None)] if teachers.files else []
    aggregate = [Merged(AGGREGATE, teachers.files, aggregator)] if aggregator is not None else []
    ours = [TeacherFile(title, file, None) for title, file in students.items()]
    job = EvaluateJob(run.config.scale, (*teachers.files, *mean, *aggregate, *ours))
    scored = most_different_photos(_score_all(run, job), len(run.sets))
    rows = mean_rows(scored, _about(run, teachers, aggregate, students))
    remove_details(run.output, old.outputs if old is not None else ())
    files = [run.output / "scores.json", run.output / BANDS, *write_details(run.output, scored)]
    manifest.write_json(run.output / "scores.json", rows)
    manifest.write_json(run.output / BANDS, band_rows(scored))
    run.seconds["evaluate"] = time.monotonic() - began
    outputs = [path.relative_to(run.output).as_posix() for path in files]
    manifest.write(
        folder,
        Manifest(
            stage="evaluate",
            inputs=inputs,
            outputs={path: digest or "" for path, digest in manifest.digests(run.output, outputs).items()},
            seed=run.config.seed,
            seconds=run.seconds["evaluate"],
            scores=rows,
        ),
    )
    _share_scores(run, teachers, list(students), rows)
    _track(run, rows, [file for file in files if file.parent.name == STRIPS])
    return rows


def _score_all(run: Run, job: EvaluateJob) -> Iterator[Scored]:
    """Every photograph of every set once."""
    photos = [
        StoredPhoto(name, store.folder, i, store.scale, with_details=True)
        for name, store in run.sets.items()
        for i in range(len(store))
    ]
    for done, scored in enumerate(score_photos([job], photos, run.resources, run.config.num_gpus), 1):
        if done == len(photos) or done % max(1, len(photos) // 10) == 0:
            run.say(f"evaluate: {done}/{len(photos)} photographs")
        yield scored


def _about(
    run: Run, teachers: ReadyTeachers, aggregate: list[Merged], students: Mapping[str, Path]
) -> dict[str, About]:
    """The mean needs the weights of all teachers, the aggregate also those of the aggregator."""
    all_teachers = sum(teachers.params.values())
    return {
        BICUBIC: About("bicubic", 0),
        **{name: About("teacher", params) for name, params in teachers.params.items()},
        MEAN: About("mean", all_teachers),
        **{one.name: About("aggregate", all_teachers + count_params(one.load(run.config.scale))) for one in aggregate},
        **{title: About("student", load_network(file, run.config.scale).params) for title, file in students.items()},
    }


def _share_scores(run: Run, teachers: ReadyTeachers, students: list[str], rows: list[Row]) -> None:
    """Each stage's manifest also carries the scores of what it made."""
    made_by = {f"teachers/{file.name}": [file.name] for file in teachers.files}
    made_by |= {"aggregate": [AGGREGATE], "distil": students}
    for stage, models in made_by.items():
        scores = [row for row in rows if row["model"] in models]
        # The aggregator of an earlier method keeps its own.
        if scores and (own := manifest.read(run.output / stage)) is not None:
            manifest.write(run.output / stage, dataclasses.replace(own, scores=scores))


def _track(run: Run, rows: list[Row], strips: list[Path]) -> None:
    tracked = run.tracker.stage("evaluate")
    tracked.metrics(
        {f"{metric}/{row['set']}/{row['model']}": row[metric] for row in rows for metric in ("psnr_y", "ssim_y")}
    )
    for strip in strips:
        tracked.image(strip, strip.stem)
    tracked.finish()
