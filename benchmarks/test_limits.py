"""Does the advice at the end of a stage hold? A run limited by its teachers and one limited by its students; what the
advice promises, and what following it to the letter gives.

    pytest benchmarks/test_limits.py

Compute is a calibrated wait, so that two cores do for every number of workers; all else is real: pools, link, object
store, Ray Train. `gain` is of images/s. The last columns are the prediction that a split was chosen by before the run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.results_table import Table
from mtkd_dist.config.shares import PoolShares
from mtkd_dist.config.tree import LinkConfig, TrainingConfig
from mtkd_dist.data import ImageStore, Photo, Plan, build_store, demo_photos
from mtkd_dist.methods import Aggregation, Batch, Crops, FrozenNetworks, Losses
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.pools.split import Costs, Devices, Split, Step, forecast
from mtkd_dist.pools.teacher_worker import TeacherJob
from mtkd_dist.report.limits import Ran, judge, sentence
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.news import Update
from mtkd_dist.train.probe import run_probe
from mtkd_dist.train.trainer import run_training

SCALE, PATCH, BATCH, SLOT, STEPS = 2, 24, 16, 2, 60
STEP = Step(BATCH, BATCH // SLOT)
NETWORK = "edsr-baseline:width=4,blocks=1"
SMALL = 0.2
"""CPUs that a waiting worker reserves."""


@dataclass(frozen=True)
class Waits(Aggregation):
    """A teacher half and a loss that take the given seconds for each image, and next to none of the processor's."""

    teacher_seconds: float = 0.0
    student_seconds: float = 0.0

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, Tensor]:
        time.sleep(self.teacher_seconds * len(crops.lr))
        return {"image": nn.functional.interpolate(crops.lr, scale_factor=SCALE)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        time.sleep(self.student_seconds * len(batch.lr))
        loss = (student(batch.lr[:1, :, :8, :8]) - batch.hr[:1, :, : 8 * SCALE, : 8 * SCALE]).abs().mean()
        return Losses(loss, {"l1_hr": loss})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    photos = [Photo(str(path)) for path in demo_photos().train]
    return build_store(photos, SCALE, tmp_path_factory.mktemp("limits") / "images")


@pytest.fixture(scope="module")
def table() -> Table:
    table = Table(
        "limits",
        [
            "limit",
            "split",
            "images/s",
            "advised",
            "images/s",
            "gain promised",
            "gain measured",
            "apart",
            "probe predicts",
            "apart",
        ],
    )
    table.notes.append("`split`: teacher + student workers. `apart`: of the rate that was promised or predicted.")
    return table


@dataclass(frozen=True)
class Bench:
    store: ImageStore
    folder: Path
    method: Waits

    def jobs(self, split: Split) -> tuple[StudentJob, TeacherJob]:
        plan = Plan(0, self.store.digest, tuple(self.store.lr_sizes), BATCH, PATCH)
        training = TrainingConfig(steps=STEPS, batch_size=BATCH, patch=PATCH, checkpoint_every=STEPS, validate_every=0)
        student, teacher = PoolSize(split.students, SMALL, 0), PoolSize(split.teachers, SMALL, 0)
        folder = self.store.folder
        return (
            StudentJob(NETWORK, 0, SCALE, self.method, plan, SLOT, folder, training, seed=0, pool=student),
            TeacherJob(self.method, plan, SLOT, SCALE, folder, (), None, wire="float16", pool=teacher),
        )

    def probe(self) -> Costs:
        student, teacher = self.jobs(Split(1, 1))
        return run_probe(teacher, student, 1)

    def run(self, split: Split, devices: Devices) -> Ran:
        """As the stage would see it: shares and rate of the last update."""
        student, teacher = self.jobs(split)
        updates: list[Update] = []
        layout = Layout(student.pool, teacher.pool)
        folder = self.folder / f"{split.teachers}+{split.students}"
        run_training(student, teacher, layout, LinkConfig(slot_size=SLOT), folder, updates.append)
        records = [record for update in updates for record in update.records if "so_far" in record]
        so_far = records[-1]["so_far"]
        teachers, students = updates[-1].teachers, updates[-1].students
        assert isinstance(teachers, PoolShares)
        assert isinstance(students, PoolShares)
        rate = so_far["images"] / so_far["seconds"]
        return Ran(split, devices, STEP, teachers, students, rate, students.starved * so_far["seconds"])


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("limit", "method", "split", "devices"),
    [
        ("teachers", Waits(teacher_seconds=0.060, student_seconds=0.020), Split(1, 1), Devices(3, "GPU")),
        ("students", Waits(teacher_seconds=0.020, student_seconds=0.060), Split(2, 1), Devices(3, "GPU")),
        ("students, split moved", Waits(teacher_seconds=0.020, student_seconds=0.060), Split(3, 1), Devices(4, "GPU")),
    ],
)
def test_advice(
    store: ImageStore, table: Table, tmp_path: Path, limit: str, method: Waits, split: Split, devices: Devices
) -> None:
    torch.set_num_threads(1)
    bench = Bench(store, tmp_path, method)
    costs = bench.probe()
    predicted = forecast(costs, split, STEP).images_per_second
    before = bench.run(split, devices)
    verdict = judge(before, costs)
    print(f"\n{limit}: {sentence(before, verdict)}")
    advice = verdict.advice[0]
    after = bench.run(advice.split, devices)
    measured = after.images_per_second / before.images_per_second - 1
    print(f"after: {sentence(after, judge(after, costs))} {after.teachers} {after.students}")
    apart = (1 + measured) / (1 + advice.gain) - 1
    table.add(
        limit,
        f"{split.teachers} + {split.students}",
        f"{before.images_per_second:.1f}",
        f"{advice.split.teachers} + {advice.split.students}",
        f"{after.images_per_second:.1f}",
        f"{advice.gain:+.0%}",
        f"{measured:+.0%}",
        f"{apart:+.1%}",
        f"{predicted:.1f}",
        f"{before.images_per_second / predicted - 1:+.1%}",
    )
    assert verdict.limit == limit.split(",")[0]
    assert abs(apart) <= 0.15
