"""What all training stages share: skip when done, resume when half done, show, track, leave a manifest."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.methods import Method
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherJob
from mtkd_dist.report.progress import Progress
from mtkd_dist.stages import manifest
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run, layout_of
from mtkd_dist.tracking.tracker import StageRun
from mtkd_dist.train.trainer import Update, run_training
from mtkd_dist.train.worker import StudentJob


@dataclasses.dataclass(frozen=True)
class Training:
    """One network to train, in a folder of its own."""

    stage: str
    """Name on screen, in MLflow and of the folder below the output folder, such as `teachers/edsr`."""
    network: str
    method: Method
    config: TrainingConfig
    teachers: tuple[TeacherFile, ...] = ()
    teacher_digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aggregator: Path | None = None
    aggregator_digest: str | None = None
    trains_aggregator: bool = False

    def inputs(self, run: Run) -> dict[str, Any]:
        """All that the resulting weights depend on."""
        link = {"slot_size": run.config.link.slot_size, "wire": run.config.link.wire}
        return {
            "network": self.network,
            "scale": run.config.scale,
            "method": [type(self.method).__name__, dataclasses.asdict(self.method)],  # type: ignore[call-overload]
            "training": {k: v for k, v in dataclasses.asdict(self.config).items() if k != "checkpoint_every"},
            "images": run.images.digest,
            "seed": run.config.seed,
            "teachers": [[t.name, self.teacher_digests[t.name], t.input_range] for t in self.teachers],
            "aggregator": self.aggregator_digest,
        } | (link if self.teachers else {})


def train_stage(run: Run, training: Training, write: Callable[[dict[str, Tensor]], list[Path]]) -> None:
    """Train, unless the folder holds the finished result of these very inputs.

    `write` puts the resulting weights (a state dict on the CPU) into files and returns them. The manifest comes last,
    so a stage that is interrupted at any point is not taken for done.
    """
    folder = run.output / training.stage
    inputs = training.inputs(run)
    old = manifest.read(folder)
    why = manifest.changed(old, inputs, manifest.digests(run.output, old.outputs) if old else {})
    if not why:
        run.say(f"{training.stage}: done before")
        return
    if old is not None:
        run.say(f"{training.stage}: runs again, because of {', '.join(why)}")
    checkpoints = folder / f"checkpoints-{manifest.fingerprint(inputs)}"
    checkpoints.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    weights, summary = _train(run, training, checkpoints)
    relative = [path.relative_to(run.output).as_posix() for path in write(weights)]
    run.seconds[training.stage] = time.monotonic() - began
    manifest.write(
        folder,
        Manifest(
            stage=training.stage,
            inputs=inputs,
            outputs={path: digest or "" for path, digest in manifest.digests(run.output, relative).items()},
            seed=run.config.seed,
            seconds=run.seconds[training.stage],
            summary=summary,
        ),
    )
    # Only now: until here, undoing a changed setting would have gone on from them.
    for stale in folder.glob("checkpoints-*"):
        if stale != checkpoints:
            shutil.rmtree(stale)


def _train(run: Run, training: Training, checkpoints: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    config, job_config = run.config, training.config
    layout = layout_of(config, run.resources, job_config, training.method.needs_teachers)
    run.say(f"{training.stage}: {training.network} on {layout}")
    plan = run.plan(job_config)
    student = StudentJob(
        network=training.network,
        num_teachers=len(training.teachers) if training.trains_aggregator else 0,
        scale=config.scale,
        method=training.method,
        plan=plan,
        slot_size=config.link.slot_size,
        images=run.images.folder,
        training=job_config,
        seed=config.seed,
        pool=layout.students,
    )
    teacher = None
    if layout.teachers is not None:
        teacher = TeacherJob(
            method=training.method,
            plan=plan,
            slot_size=config.link.slot_size,
            scale=config.scale,
            images=run.images.folder,
            teachers=training.teachers,
            aggregator=training.aggregator,
            wire=config.link.wire,
            pool=layout.teachers,
        )
    tracked = run.tracker.stage(training.stage)
    tracked.params({"network": training.network, "layout": str(layout)} | dataclasses.asdict(job_config))
    with Progress(run.console, training.stage, job_config.steps) as progress:
        course = _Course(training.stage, progress, tracked, run.say)
        weights = run_training(student, teacher, layout, config.link, checkpoints, course.update)
    tracked.finish()
    return weights, course.summary()


class _Course:
    """Follows a training: shows and tracks each update, and keeps what the manifest says about it."""

    LOSSES_KEPT = 50

    def __init__(self, stage: str, progress: Progress, tracked: StageRun, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._say = say
        self._lost_workers = 0
        self._progress = progress
        self._tracked = tracked
        self._losses: list[float] = []
        self._rates: list[float] = []
        self._last: dict[str, Any] = {}

    def update(self, update: Update) -> None:
        for record in update.records:
            numbers = {key: value for key, value in record.items() if isinstance(value, float)}
            self._tracked.metrics(numbers, step=record["step"])
        self._losses = (self._losses + [r["loss"] for r in update.records])[-self.LOSSES_KEPT :]
        lost = update.link.get("lost_workers", 0)
        if lost > self._lost_workers:
            self._say(f"{self._stage}: {lost} teacher worker(s) have died so far; their work is done again by others")
            self._lost_workers = lost
        rated = [r for r in update.records if "images_per_second" in r]
        if not rated:
            return
        last = rated[-1]
        self._rates += [r["images_per_second"] for r in rated]
        pools = {"students": last["students"]} | ({"teachers": update.teachers} if update.teachers else {})
        shares: dict[str, dict[str, float]] = {name: dataclasses.asdict(pool) for name, pool in pools.items()}
        self._tracked.metrics(
            {f"{pool}_{share}": value for pool, values in shares.items() for share, value in values.items()},
            step=last["step"],
        )
        self._progress.update(last["step"] + 1, last["loss"], last["images_per_second"], pools)
        self._last = {"pools": shares, "link": {k: v for k, v in update.link.items() if k != "shares"}}

    def summary(self) -> dict[str, Any]:
        """Mean of the last losses, median of images/s, and where the pools' time went."""
        return self._last | {
            "loss": sum(self._losses) / len(self._losses) if self._losses else None,
            "images_per_second": sorted(self._rates)[len(self._rates) // 2] if self._rates else None,
        }
