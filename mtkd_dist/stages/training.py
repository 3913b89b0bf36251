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
from mtkd_dist.pools.render import RenderedTeachers
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherJob
from mtkd_dist.report.progress import Progress
from mtkd_dist.stages import manifest
from mtkd_dist.stages.answers import facts, prepare
from mtkd_dist.stages.check import TRAININGS
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run, layout_of
from mtkd_dist.tracking.tracker import StageRun
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.trainer import Update, run_training
from mtkd_dist.train.validation import ValidationJob

WEIGHTLESS = ("checkpoint_every", "validate_every", "result", "channels_last", "compile")
"""Settings of a training that its weights do not depend on. The last two change what is rounded how and what drop-path
leaves out, as the number of students does: switching them on half-way is no reason to begin anew. Precision is:
bfloat16 is another arithmetic."""
BEST = "best.safetensors"
"""In the folder of the checkpoints: the weights of the best validation so far, with step and score as metadata."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One network to train, in a folder of its own."""

    stage: str
    """Name on screen, in MLflow and of the folder below the output folder, such as `teachers/edsr`."""
    network: str
    method: Method
    config: TrainingConfig
    metadata: Mapping[str, str]
    """Of the file of its weights."""
    teachers: tuple[TeacherFile, ...] = ()
    teacher_digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aggregator: Path | None = None
    aggregator_digest: str | None = None
    trains_aggregator: bool = False
    start: Path | None = None
    """File whose weights the network starts from."""
    start_digest: str | None = None
    rendered: RenderedTeachers | None = None
    """Where the teachers' images are read that the method asks for; None: a teacher pool answers."""

    def inputs(self, run: Run) -> dict[str, Any]:
        """All that the weights depend on while they are trained."""
        answers: dict[str, Any] = {"slot_size": run.config.link.slot_size, "wire": run.config.link.wire}
        if self.rendered is not None:
            answers = {"teacher_outputs": facts(self.rendered)}
        return {
            "network": self.network,
            "scale": run.config.scale,
            "method": [type(self.method).__name__, dataclasses.asdict(self.method)],  # type: ignore[call-overload]
            "training": {k: v for k, v in dataclasses.asdict(self.config).items() if k not in WEIGHTLESS},
            "images": run.images.digest,
            "seed": run.config.seed,
            "teachers": [[t.name, self.teacher_digests[t.name], t.input_range] for t in self.teachers],
            "aggregator": self.aggregator_digest,
            "start": self.start_digest,
        } | (answers if self.teachers else {})

    def choice(self, run: Run) -> dict[str, Any]:
        """What it depends on which of them the stage hands on; another choice needs no other training."""
        if self.config.result == "last":
            return {}
        photographs = run.validation.digest if run.validation is not None else None
        return {"result": "best", "validate_every": self.config.validate_every, "validation": photographs}


def check_results(run: Run) -> None:
    """Errors: ValueError where the best weights are wanted and no photograph is there to judge them by."""
    for name in TRAININGS:
        if getattr(run.config, name).result == "best" and run.validation is None:
            raise ValueError(
                f"{name}.result: best needs held-out photographs, and none of the {len(run.images)} in data could be "
                "put aside; give more of them, or take the last weights"
            )


def train_stage(run: Run, training: Training, write: Callable[[dict[str, Tensor]], list[Path]]) -> None:
    """Train, unless the folder holds the finished result of these very inputs.

    `write` puts the resulting weights (a state dict on the CPU) into files and returns them. The manifest comes last,
    so a stage that is interrupted at any point is not taken for done.
    """
    folder = run.output / training.stage
    trained_with = training.inputs(run)
    inputs = trained_with | training.choice(run)
    old = manifest.read(folder)
    why = manifest.changed(old, inputs, manifest.digests(run.output, old.outputs) if old else {})
    if not why:
        run.say(f"{training.stage}: done before")
        return
    if old is not None:
        run.say(f"{training.stage}: runs again, because of {', '.join(why)}")
    checkpoints = folder / f"checkpoints-{manifest.fingerprint(trained_with)}"
    checkpoints.mkdir(parents=True, exist_ok=True)
    if training.rendered is not None:
        prepare(run, training.rendered)
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
    asks_pool = training.method.needs_teachers and training.rendered is None
    layout = layout_of(config, run.resources, job_config, asks_pool)
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
        rendered=training.rendered,
        start=training.start,
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
            precision=job_config.precision,
        )
    validation = None
    if run.validation is not None and job_config.validate_every:
        teachers = training.teachers if training.trains_aggregator else ()
        validation = ValidationJob(student, run.validation.folder, teachers, checkpoints / BEST, training.metadata)
    tracked = run.tracker.stage(training.stage)
    tracked.params({"network": training.network, "layout": str(layout)} | dataclasses.asdict(job_config))
    with Progress(run.console, training.stage, job_config.steps) as progress:
        course = _Course(training.stage, progress, tracked, run.say)
        weights = run_training(student, teacher, layout, config.link, checkpoints, course.update, validation)
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
        self._validation: dict[str, Any] = {}

    def update(self, update: Update) -> None:
        for record in update.records:
            numbers = {key: value for key, value in record.items() if isinstance(value, float)}
            self._tracked.metrics(numbers, step=record["step"])
        self._losses = (self._losses + [r["loss"] for r in update.records])[-self.LOSSES_KEPT :]
        for note in update.notes:
            self._say(f"{self._stage}: {note}")
        for scored in update.validations:
            self._validated(scored)
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

    def _validated(self, scored: dict[str, Any]) -> None:
        step, score = scored["step"], scored["validation_psnr_y"]
        self._tracked.metrics({"validation_psnr_y": score}, step=step)
        best = "the best so far" if scored["best_step"] == step else f"best {scored['best_psnr_y']:.2f}"
        photographs = f"{scored['photos']} held-out photograph{'s' if scored['photos'] > 1 else ''}"
        self._say(f"{self._stage}: step {step}, PSNR-Y {score:.2f} dB on {photographs} ({best})")
        self._validation = {"validation": scored}

    def summary(self) -> dict[str, Any]:
        """Mean of the last losses, median of images/s, where the pools' time went, last and best validation."""
        return (
            self._last
            | self._validation
            | {
                "loss": sum(self._losses) / len(self._losses) if self._losses else None,
                "images_per_second": sorted(self._rates)[len(self._rates) // 2] if self._rates else None,
            }
        )
