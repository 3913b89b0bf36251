"""`teacher_outputs`: whether teachers answer in every step or once, and what the one costs against the other."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.filesize import decimal as bytes_text

from mtkd_dist.config.tree import Config, TrainingConfig
from mtkd_dist.methods import NeedsNetworks, images_asked
from mtkd_dist.models import aggregator_path, digest_file
from mtkd_dist.pools.evaluate import AGGREGATE
from mtkd_dist.pools.teacher_seconds import seconds_per_pixel
from mtkd_dist.report.progress import duration
from mtkd_dist.stages import half_done, manifest
from mtkd_dist.stages.answers import outputs_folder, rendered_teachers, room_for
from mtkd_dist.stages.distil_method import distil_method, needs_aggregator
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.train.checkpoints import Checkpoints

STAGE = "answers"


class Costs(NamedTuple):
    """Work of the teacher pool, in seconds of one worker, and what rendered images take on disk."""

    live_seconds: float
    cached_seconds: float
    cached_bytes: int
    """Beside what is there."""


class Choice(NamedTuple):
    cached: bool
    why: str
    """A sentence for the screen."""


def costs(
    seconds_per_pixel: Mapping[str, float],
    aggregate: TrainingConfig | None,
    distil: TrainingConfig,
    missing_pixels: Mapping[str, int],
    missing_bytes: int,
) -> Costs:
    """What both ways would cost.

    Args:
        seconds_per_pixel: name of each teacher, and `AGGREGATE` where the student learns from aggregates -> seconds
            for an LR pixel.
        aggregate: of the aggregator, or None where none is trained.
        missing_pixels: LR pixels of the photographs that each of them has still to render, under the same names.
        missing_bytes: of the files of these.
    """
    teachers = sum(seconds for name, seconds in seconds_per_pixel.items() if name != AGGREGATE)
    live = _pixels(distil) * (teachers + seconds_per_pixel.get(AGGREGATE, 0))
    live += _pixels(aggregate) * teachers if aggregate is not None else 0
    cached = sum(missing_pixels[name] * seconds for name, seconds in seconds_per_pixel.items())
    return Costs(live, cached, missing_bytes)


def choose(costs: Costs, refusal: str | None) -> Choice:
    """The cheaper one that is possible. `refusal`: why rendered images find no room, or None where they do."""
    compared = (
        f"live costs {duration(costs.live_seconds)} of teacher work, cached {duration(costs.cached_seconds)} and "
        f"{bytes_text(costs.cached_bytes)}"
    )
    if refusal is not None:
        return Choice(False, f"{compared}; live is taken, because there is no room. {refusal}")
    cached = costs.cached_seconds < costs.live_seconds
    return Choice(cached, f"{compared}; {'cached' if cached else 'live'} is taken")


def made_with(inputs: Mapping[str, Any]) -> bool | None:
    """Whether a training of these inputs read rendered images; None for one without teachers."""
    if "teacher_outputs" in inputs:
        return True
    return False if "slot_size" in inputs else None


def trained_before(output: Path) -> tuple[str, bool] | None:
    """The stage in the output folder that was trained last, in whole or in part, and whether it read rendered images.

    None where there is none that has teachers.
    """
    found: list[tuple[float, str, bool]] = []
    for stage in ("aggregate", "distil"):
        folders = [path for path in (output / stage).glob("checkpoints-*") if Checkpoints(path).steps()]
        files = [output / stage / manifest.FILE, *(folder / half_done.INPUTS for folder in folders)]
        for file in files:
            try:
                content = json.loads(file.read_text())
                cached = made_with(content["inputs"] if file.name == manifest.FILE else content)
            except (OSError, ValueError, TypeError, KeyError):
                continue
            if cached is not None:
                found.append((file.stat().st_mtime, stage, cached))
    return max(found)[1:] if found else None


def reads_rendered(run: Run, teachers: ReadyTeachers) -> bool:
    """Whether students read rendered images.

    With `auto`, what a training in the output folder was made with stays, since its weights depend on it; before there
    is one, what was chosen for the same networks, photographs and lengths.
    """
    config = run.config
    if not distil_method(config).needs_teachers:
        return False
    if config.teacher_outputs != "auto":
        return config.teacher_outputs == "cached"
    try:
        images_asked(distil_method(config), len(teachers.files), config.scale)
    except NeedsNetworks as error:
        run.say(f"{STAGE}: live, because {error}")
        return False
    before = trained_before(run.output)
    if before is not None:
        stage, cached = before
        run.say(f"{STAGE}: {'cached' if cached else 'live'}, as {stage} was trained before")
        return cached
    inputs = {
        "teachers": [[file.name, teachers.digests[file.name], file.input_range] for file in teachers.files],
        "aggregator": digest_file(given) if (given := aggregator_path(config.aggregator)) else _aggregator(config),
        "images": run.images.digest,
        "trainings": [_work(training) for training in (config.aggregate, config.distil)],
        "dtype": config.answers.dtype,
    }
    old = manifest.read(run.output / STAGE)
    if old is not None and not manifest.changed(old, inputs, {}):
        run.say(f"{STAGE}: chosen before: {old.summary['why']}")
        return bool(old.summary["cached"])
    began = time.monotonic()
    measured = _measure(run, teachers)
    choice = choose(measured, _refusal(run, teachers))
    run.say(f"{STAGE}: {choice.why}")
    (run.output / STAGE).mkdir(parents=True, exist_ok=True)
    manifest.write(
        run.output / STAGE,
        Manifest(
            stage=STAGE,
            inputs=inputs,
            outputs={},
            seed=config.seed,
            seconds=time.monotonic() - began,
            summary=choice._asdict() | measured._asdict(),
        ),
    )
    tracked = run.tracker.stage(STAGE)
    tracked.params({"teacher_outputs": "cached" if choice.cached else "live"})
    tracked.metrics(measured._asdict())
    tracked.finish()
    return choice.cached


def _measure(run: Run, teachers: ReadyTeachers) -> Costs:
    config = run.config
    seconds = seconds_per_pixel(
        teachers.files,
        _aggregator(config),
        run.images,
        config.distil.patch,
        config.teacher_precision,
        run.resources,
    )
    outputs = [rendering.outputs for rendering in rendered_teachers(run, teachers.files, teachers.digests).teachers]
    names = [file.name for file in teachers.files]
    missing = {name: one.missing() for name, one in zip(names, outputs, strict=True)}
    if needs_aggregator(config):
        # An aggregate belongs to its aggregator, which may not be trained yet: all of them count.
        missing[AGGREGATE] = list(range(len(run.images)))
    size = sum(outputs[0].file_bytes(index) for indices in missing.values() for index in indices)
    pixels = {name: _image_pixels(run.images.lr_sizes, indices) for name, indices in missing.items()}
    trained = needs_aggregator(config) and aggregator_path(config.aggregator) is None
    aggregate = config.aggregate if trained else None
    return costs(seconds, aggregate, config.distil, pixels, size)


def _refusal(run: Run, teachers: ReadyTeachers) -> str | None:
    renderings = rendered_teachers(run, teachers.files, teachers.digests).teachers
    of_one = sum(renderings[0].outputs.file_bytes(index) for index in range(len(run.images)))
    return room_for(run, renderings, ahead=of_one if needs_aggregator(run.config) else 0).refusal(outputs_folder(run))


def _aggregator(config: Config) -> str | None:
    return config.aggregator if needs_aggregator(config) else None


def _image_pixels(sizes: Sequence[tuple[int, int]], indices: Sequence[int]) -> int:
    return sum(sizes[index][0] * sizes[index][1] for index in indices)


def _pixels(training: TrainingConfig) -> int:
    """LR pixels of all samples of a training."""
    return training.steps * training.batch_size * training.patch**2


def _work(training: TrainingConfig) -> dict[str, int]:
    return {"steps": training.steps, "batch_size": training.batch_size, "patch": training.patch}
