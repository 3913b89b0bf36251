"""What all training stages share: skip when done, resume when half done, show, track, leave a manifest."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.methods import Equips, Method, images_asked, settings_of
from mtkd_dist.pools.placement import Layout
from mtkd_dist.pools.render import RenderedTeachers
from mtkd_dist.pools.split import Costs
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherJob
from mtkd_dist.report.history import History
from mtkd_dist.report.limits import Cached, judge, sentence
from mtkd_dist.report.progress import Progress
from mtkd_dist.stages import half_done, manifest
from mtkd_dist.stages.answers import facts, prepare
from mtkd_dist.stages.check import TRAININGS
from mtkd_dist.stages.course import Course
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run, layout_of
from mtkd_dist.stages.split import StagePlan, choose_layout, devices_of
from mtkd_dist.train.checkpoints import BEST
from mtkd_dist.train.job import StudentJob, StudentNet
from mtkd_dist.train.stopping import Saved
from mtkd_dist.train.students import MAIN, weights_of_each
from mtkd_dist.train.trainer import run_training
from mtkd_dist.train.validation import ValidationJob

WEIGHTLESS = ("checkpoint_every", "keep_checkpoints", "validate_every", "result", "channels_last", "compile")
"""Settings of a training that its weights do not depend on. The last two change what is rounded how and what drop-path
leaves out, as the number of students does: switching them on half-way is no reason to begin anew. Precision is:
bfloat16 is another arithmetic."""


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
    more: tuple[StudentNet, ...] = ()
    """Further networks that learn from the same batches; each ends with the weights that it would have alone."""
    rendered: RenderedTeachers | None = None
    """Where the teachers' images are read that the method asks for; None: a teacher pool answers."""

    @property
    def students(self) -> tuple[StudentNet, ...]:
        """All that learn, the main one first; `Training.network` and `start` are its own."""
        return (StudentNet(MAIN, self.network, self.start, self.start_digest), *self.more)

    def inputs(self, run: Run) -> dict[str, Any]:
        """All that the weights depend on while they are trained."""
        answers: dict[str, Any] = {
            "slot_size": run.config.link.slot_size,
            "wire": run.config.link.wire,
            "teacher_precision": run.config.teacher_precision,
        }
        if self.rendered is not None:
            answers = {"teacher_outputs": facts(self.rendered)}
        more = [[net.name, net.network, net.start_digest] for net in self.more]
        inputs = {
            "network": self.network,
            "scale": run.config.scale,
            "method": [type(self.method).__name__, settings_of(self.method)],
            "training": _weighty(self.config),
            "images": run.images.digest,
            "seed": run.config.seed,
            "teachers": [[t.name, self.teacher_digests[t.name], t.input_range] for t in self.teachers],
            "aggregator": self.aggregator_digest,
            "start": self.start_digest,
        }
        return inputs | (answers if self.teachers else {}) | ({"more_students": more} if more else {})

    def by_student(self, weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The weights that the training ends with, by the name of the student."""
        return weights_of_each(weights, [net.name for net in self.students])

    def names(self) -> dict[str, str]:
        """What of `inputs` the configuration calls otherwise."""
        settings = self.stage if self.stage in ("aggregate", "distil") else "teacher_training"
        return {
            "training": settings,
            "network": "student" if self.stage == "distil" else "network",
            "method": "loss",
            "start": "student_weights",
            "slot_size": "link.slot_size",
            "wire": "link.wire",
        }

    def choice(self, run: Run) -> dict[str, Any]:
        """What it depends on which of them the stage hands on; another choice needs no other training."""
        if self.config.result == "last":
            return {}
        photographs = run.validation.digest if run.validation is not None else None
        return {"result": "best", "validate_every": self.config.validate_every, "validation": photographs}


def _weighty(config: TrainingConfig) -> dict[str, Any]:
    """The settings that weights depend on: of `rates` and what they replace, only what is in force."""
    unused = ("learning_rate", "halve_at") if config.rates else ("rates",)
    return {key: value for key, value in dataclasses.asdict(config).items() if key not in WEIGHTLESS + unused}


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
    refuses = run.config.on_change == "refuse"
    if refuses:
        half_done.check_unchanged(training.stage, folder, trained_with, old, training.names())
    if old is not None:
        files = [path for path in why if path in old.outputs]
        reasons = manifest.differences(old.inputs, inputs, training.names()) + files
        if refuses:
            half_done.check_later(training.stage, run.output, old, reasons)
        run.say(f"{training.stage}: runs again, because of {'; '.join(reasons)}")
    checkpoints = half_done.begin(folder, trained_with)
    if training.rendered is not None:
        asked = images_asked(training.method, len(training.teachers), run.config.scale)
        prepare(run, training.rendered, each="teachers" in asked)
    began = time.monotonic()
    train = _train if run.engine is None else run.engine.train
    weights, summary = train(run, training, checkpoints)
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
            half_done.history_of(stale).unlink(missing_ok=True)


def jobs_of(run: Run, training: Training, layout: Layout) -> tuple[StudentJob, TeacherJob | None]:
    """What both pools do in this layout."""
    config = run.config
    plan = run.plan(training.config)
    student = StudentJob(
        network=training.network,
        num_teachers=len(training.teachers) if training.trains_aggregator else 0,
        scale=config.scale,
        method=training.method,
        plan=plan,
        slot_size=config.link.slot_size,
        images=run.images.folder,
        training=training.config,
        seed=config.seed,
        pool=layout.students,
        min_workers=config.cluster.min_students,
        rendered=training.rendered,
        start=training.start,
        tails=training.teachers if isinstance(training.method, Equips) else (),
        more=training.more,
    )
    if layout.teachers is None:
        return student, None
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
        precision=config.teacher_precision,
        aggregator_digest=training.aggregator_digest,
    )
    return student, teacher


def validation_of(run: Run, training: Training, student: StudentJob, checkpoints: Path) -> ValidationJob | None:
    """None where nothing is held out, or no score is wanted."""
    if run.validation is None or not training.config.validate_every:
        return None
    teachers = training.teachers if training.trains_aggregator else ()
    return ValidationJob(student, run.validation.folder, teachers, checkpoints / BEST, training.metadata)


def _train(run: Run, training: Training, checkpoints: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    config, job_config = run.config, training.config
    asks_pool = training.method.needs_teachers and training.rendered is None
    layout, chosen = layout_of(config, run.resources, job_config, asks_pool), None
    if asks_pool:
        layout, chosen = choose_layout(run, training.stage, job_config, functools.partial(jobs_of, run, training))
    student, teacher = jobs_of(run, training, layout)
    networks = ", ".join(net.network for net in training.students)
    run.say(f"{training.stage}: {networks} on {layout}")
    validation = validation_of(run, training, student, checkpoints)
    tracked = run.tracker.stage(training.stage)
    tracked.params({"network": networks, "layout": str(layout)} | dataclasses.asdict(job_config))
    with (
        Progress(run.console, training.stage, job_config.steps) as progress,
        History(half_done.history_of(checkpoints), job_config.steps, run.say) as history,
    ):
        course = Course(training.stage, layout, student, config.link, progress, tracked, history, run.say)
        try:
            weights = run_training(student, teacher, layout, config.link, checkpoints, course.update, validation)
        except Saved as saved:
            raise KeyboardInterrupt(f"{training.stage} is {saved}.") from saved
    summary = course.summary()
    ran = course.ran(devices_of(run))
    if ran is not None:
        verdict = judge(ran, *_known_before(chosen))
        summary["limit"] = run.limits[training.stage] = sentence(ran, verdict)
        run.say(f"{training.stage}: {summary['limit']}")
    tracked.finish()
    return weights, summary


def _known_before(plan: StagePlan | None) -> tuple[Costs | None, Cached | None]:
    return (None, None) if plan is None else (plan.costs, Cached(plan.lr_pixels, plan.images))
