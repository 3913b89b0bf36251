"""What a finished run leaves in MLflow's model registry: a version of each student."""

from __future__ import annotations

import re

from mtkd_dist.models import digest_file, read_metadata
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.scores import Row
from mtkd_dist.stages.students import student_titles
from mtkd_dist.tracking.registry import CURRENT


def register_students(run: Run, rows: list[Row]) -> list[str]:
    """What MLflow calls the students. One that the run registered before gets no other version.

    `rows`: those of scores.json.
    """
    uris: list[str] = []
    for title in student_titles(run.config):
        path, name = run.output / f"{title}.safetensors", registered_name(run.output.name, title)
        own = [row for row in rows if row["model"] == title]
        scores = {f"{metric}/{row['set']}": str(row[metric]) for row in own for metric in ("psnr_y", "ssim_y")}
        metrics = [f"psnr_y/{row['set']}/{title}" for row in own]
        run.tracker.run.model(path, digest_file(path), name, read_metadata(path) | scores, metrics)
        uris.append(f"models:/{name}@{CURRENT}")
    return uris


def registered_name(output: str, title: str) -> str:
    """Of the model whose versions are the students `title` of all runs into folders that are called `output`."""
    legal = re.sub(r"[^\w.-]", "_", output)
    return f"mtkd-{legal}-{title}"
