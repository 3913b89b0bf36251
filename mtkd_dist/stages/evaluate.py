"""Stage `evaluate`: scores of every model on every test set, and pictures to look at."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_dist.models import check_student, digest_file, load_aggregator, load_network
from mtkd_dist.models.registry import count_params
from mtkd_dist.pools.evaluate import AGGREGATE, BICUBIC, MEAN, STUDENT, EvaluateJob, Photo, score_photos
from mtkd_dist.report.grid import sample_grid
from mtkd_dist.stages import manifest
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers

DETAILS_PER_SET = 2
"""Photographs of each set that get a sample grid."""

Row = dict[str, Any]


def run_evaluate(run: Run, teachers: ReadyTeachers, aggregator: Path, student: Path) -> list[Row]:
    """Score, or take the scores of these very files from before; returns the rows of scores.json."""
    folder = run.output / "evaluate"
    inputs = {
        "scale": run.config.scale,
        "teachers": [[f.name, teachers.digests[f.name], f.input_range] for f in teachers.files],
        "aggregator": digest_file(aggregator),
        "student": digest_file(student),
        "sets": {name: store.digest for name, store in run.sets.items()},
    }
    old = manifest.read(folder)
    if old is not None and not manifest.changed(old, inputs, manifest.digests(run.output, old.outputs)):
        run.say("evaluate: done before")
        return old.scores
    check_student(student, teachers.digests, run.config.scale)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    job = EvaluateJob(teachers.files, aggregator, student, run.config.scale)
    per_image = list(_score_all(run, job))
    rows = _rows(run, per_image, _params(run, teachers, aggregator, student))
    grids = _write_grids(run, per_image)
    manifest.write_json(run.output / "scores.json", rows)
    run.seconds["evaluate"] = time.monotonic() - began
    outputs = [path.relative_to(run.output).as_posix() for path in [run.output / "scores.json", *grids]]
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
    _share_scores(run, teachers, rows)
    _track(run, rows, grids)
    return rows


def _score_all(run: Run, job: EvaluateJob) -> Iterator[dict[str, Any]]:
    """Every photograph of every set once."""
    photos = [
        Photo(name, store.folder, i, with_details=i < DETAILS_PER_SET)
        for name, store in run.sets.items()
        for i in range(len(store))
    ]
    for done, result in enumerate(score_photos(job, photos, run.resources, run.config.num_gpus), 1):
        if done == len(photos) or done % max(1, len(photos) // 10) == 0:
            run.say(f"evaluate: {done}/{len(photos)} photographs")
        yield result


def _params(run: Run, teachers: ReadyTeachers, aggregator: Path, student: Path) -> dict[str, int]:
    """Weights that a model needs for its image: the mean needs all teachers, the aggregate also the aggregator."""
    of_aggregator = count_params(load_aggregator(aggregator, teachers.digests, run.config.scale))
    all_teachers = sum(teachers.params.values())
    return {
        BICUBIC: 0,
        **teachers.params,
        MEAN: all_teachers,
        AGGREGATE: all_teachers + of_aggregator,
        STUDENT: load_network(student, run.config.scale).params,
    }


def _rows(run: Run, per_image: list[dict[str, Any]], params: dict[str, int]) -> list[Row]:
    """One row for each model and set: means over the photographs of the set."""
    roles = {BICUBIC: "bicubic", MEAN: "mean", AGGREGATE: "aggregate", STUDENT: "student"}
    rows: list[Row] = []
    for name in run.sets:
        scores = [image["scores"] for image in per_image if image["set"] == name]
        for model in params:
            psnr, ssim = np.mean([score[model] for score in scores], axis=0)
            rows.append(
                {
                    "model": model,
                    "role": roles.get(model, "teacher"),
                    "set": name,
                    "scale": run.config.scale,
                    "psnr_y": round(float(psnr), 4),
                    "ssim_y": round(float(ssim), 5),
                    "params": params[model],
                }
            )
    return rows


def _write_grids(run: Run, per_image: list[dict[str, Any]]) -> list[Path]:
    """LR, every model and HR side by side, for the photographs that brought details."""
    (run.output / "samples").mkdir(exist_ok=True)
    grids: list[Path] = []
    for image in per_image:
        if "details" in image:
            grids.append(run.output / "samples" / f"{image['set']}-{Path(image['image']).stem}.png")
            sample_grid(image["details"], grids[-1])
    return grids


def _share_scores(run: Run, teachers: ReadyTeachers, rows: list[Row]) -> None:
    """Each stage's manifest also carries the scores of what it made."""
    made_by = {f"teachers/{file.name}": file.name for file in teachers.files}
    made_by |= {"aggregate": AGGREGATE, "distil": STUDENT}
    for stage, model in made_by.items():
        if (own := manifest.read(run.output / stage)) is not None:
            scores = [row for row in rows if row["model"] == model]
            manifest.write(run.output / stage, dataclasses.replace(own, scores=scores))


def _track(run: Run, rows: list[Row], grids: list[Path]) -> None:
    tracked = run.tracker.stage("evaluate")
    tracked.metrics(
        {f"{metric}/{row['set']}/{row['model']}": row[metric] for row in rows for metric in ("psnr_y", "ssim_y")}
    )
    for grid in grids:
        tracked.image(grid, grid.stem)
    tracked.finish()
