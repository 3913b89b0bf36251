"""The actors around the decisions: few tests, because each starts processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayTaskError

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.methods import Aggregation, Batch, Crops, Losses, Supervised
from mtkd_dist.pools.board import BoardActor
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.pools.teacher_pool import TeacherPool
from mtkd_dist.pools.teacher_worker import TeacherJob
from mtkd_dist.train.checkpoints import Checkpoints
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.news import Update
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.trainer import run_training
from mtkd_dist.verify_run import verify
from tests.nets import make_job, make_store, make_teacher_job, train_alone

pytestmark = pytest.mark.usefixtures("ray_cluster")
ONE_CPU = PoolSize(workers=1, cpus=1, gpus=0)
TWO_CPUS = PoolSize(workers=2, cpus=1, gpus=0)


@pytest.fixture
def job(tmp_path: Path) -> TeacherJob:
    return make_teacher_job(tmp_path)


def start_pool(job: TeacherJob, pool: PoolSize, config: LinkConfig) -> AbstractContextManager[TeacherPool]:
    return TeacherPool(job, pool, 6, job.plan.batch_size // job.slot_size, config, BoardActor.remote())


def attach(pool: TeacherPool, job: TeacherJob, attempt: int = 1) -> int:
    """As the only rank, at step 0."""
    ray.get(pool.link.attach.remote(attempt, 0, 1, 0, job.plan.digest))
    return attempt


def test_an_answer_that_was_lost_with_its_node_is_made_again(job: TeacherJob) -> None:
    with start_pool(job, ONE_CPU, LinkConfig(slot_size=2)) as pool:
        attempt = attach(pool, job)
        first = ray.get(pool.link.take.remote(attempt, 0, 0, [0]))
        ray.get(pool.link.lost.remote(attempt, 0, [0]))
        second = ray.get(pool.link.take.remote(attempt, 0, 0, [0]))
        assert first != second
        np.testing.assert_array_equal(ray.get(first)[0]["hr"], ray.get(second)[0]["hr"])


def test_a_teacher_half_that_fails_ends_the_run_with_its_own_words(job: TeacherJob) -> None:
    broken = dataclasses.replace(job, method=_BrokenTeaching())
    with start_pool(broken, ONE_CPU, LinkConfig(slot_size=2)) as pool:
        attempt = attach(pool, job)
        with pytest.raises(RayTaskError, match="the lamp is out"):
            ray.get(pool.link.take.remote(attempt, 0, 0, [0]))


def test_a_teacher_file_that_cannot_be_loaded_is_named_before_students_start(job: TeacherJob, tmp_path: Path) -> None:
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    torn = dataclasses.replace(job.teachers[0], path=tmp_path / "torn.safetensors")
    with (
        pytest.raises(TrainingFailed, match=r"torn\.safetensors"),
        start_pool(dataclasses.replace(job, teachers=(torn,)), ONE_CPU, LinkConfig(slot_size=2)),
    ):
        pass


@pytest.mark.slow
def test_a_killed_rank_of_two_changes_no_weight_and_no_sample_is_lost_or_repeated(tmp_path: Path) -> None:
    teacher = make_teacher_job(tmp_path)
    kill = _KillsOnce(flag=tmp_path / "died", at=6, rank=1)
    job = make_job(make_store(tmp_path), method=kill, steps=8, checkpoint_every=2)

    def start(run: str) -> dict[str, torch.Tensor]:
        folder = tmp_path / run / "distil" / "checkpoints-0"
        given = dataclasses.replace(teacher, method=kill)
        return run_training(job, given, Layout(TWO_CPUS, ONE_CPU), LinkConfig(slot_size=2), folder, lambda update: None)

    disturbed = start("disturbed")
    assert (tmp_path / "died").exists()
    undisturbed = start("undisturbed")
    for name, tensor in undisturbed.items():
        assert torch.equal(tensor, disturbed[name]), name
    verdicts = {}
    for run in ("disturbed", "undisturbed"):
        (finding,) = verify(tmp_path / run)
        verdicts[run] = finding.verdict
    assert [v is not None and v.fine and v.compared and v.finished for v in verdicts.values()] == [True, True]
    assert [v.attempts for v in verdicts.values() if v] == [2, 1]


@pytest.mark.slow
def test_a_second_start_goes_on_from_the_newest_checkpoint_to_the_undisturbed_result(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path), steps=8, halve_at=[])
    half = dataclasses.replace(job, training=dataclasses.replace(job.training, steps=4))
    layout = Layout(TWO_CPUS, None)
    seen: list[int] = []

    def start(job: StudentJob) -> dict[str, torch.Tensor]:
        seen.clear()
        return run_training(
            job,
            None,
            layout,
            LinkConfig(slot_size=2),
            tmp_path / "run",
            lambda update: seen.extend(record["step"] for record in update.records),
        )

    start(half)
    weights = start(job)
    assert seen == [4, 5, 6, 7]
    undisturbed = TrainState(job.build(), job.training)
    train_alone(job, undisturbed)
    for name, tensor in undisturbed.result().items():
        # Two ranks add gradients in another order than one rank does.
        torch.testing.assert_close(weights[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_last_steps_are_told_although_the_driver_looked_away(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path), steps=40, checkpoint_every=40)
    seen: list[int] = []

    def on_update(update: Update) -> None:
        if not seen:
            last = Checkpoints(tmp_path / "run").path(40)
            while not last.exists():
                time.sleep(0.1)
            time.sleep(10)  # Ray Train notices meanwhile that all is done
        seen.extend(record["step"] for record in update.records)

    run_training(job, None, Layout(ONE_CPU, None), LinkConfig(slot_size=2), tmp_path / "run", on_update)
    assert seen == list(range(40))


def test_a_loss_that_is_not_finite_ends_the_run_without_further_attempts(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path), learning_rate=1e30)
    seen: list[int] = []
    with pytest.raises(TrainingFailed, match=r"student rank 0: the loss is not finite at step"):
        run_training(
            job,
            None,
            Layout(ONE_CPU, None),
            LinkConfig(slot_size=2),
            tmp_path / "run",
            lambda update: seen.extend(record["step"] for record in update.records),
        )
    assert len(seen) == len(set(seen))


@dataclasses.dataclass(frozen=True)
class _BrokenTeaching(Aggregation):
    def teach(self, crops: Crops, networks: object) -> dict[str, torch.Tensor]:
        raise RuntimeError("the lamp is out")


@dataclasses.dataclass(frozen=True)
class _KillsOnce(Supervised):
    """Kills the process of `rank` at the `at`-th loss, the first time."""

    flag: Path = Path()
    at: int = 0
    rank: int = 0

    def loss(self, student: torch.nn.Module, batch: Batch) -> Losses:
        student.calls = getattr(student, "calls", 0) + 1
        if student.calls == self.at and torch.distributed.get_rank() == self.rank and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(student, batch)
