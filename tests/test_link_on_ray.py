"""Faults of teachers and links on real processes. Each test compares what a student gets with what one teacher worker
in this process says: bit by bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayTaskError

from mtkd_dist.config.tree import LinkConfig, OnDeadly
from mtkd_dist.methods import Aggregation, Batch, Crops, FrozenNetworks
from mtkd_dist.pools.board import BoardActor
from mtkd_dist.pools.link import LinkError
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.pools.teacher_pool import TeacherPool
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker
from mtkd_dist.pools.wire import unpack
from mtkd_dist.train import trainer
from mtkd_dist.train.link_source import LinkSource
from mtkd_dist.train.loop import train
from mtkd_dist.train.news import Update
from mtkd_dist.train.source import Share
from mtkd_dist.train.state import TrainState
from tests.nets import TINY_AGGREGATOR, make_job, make_store, make_teacher_job, share

pytestmark = pytest.mark.usefixtures("ray_cluster")
TWO = PoolSize(workers=2, cpus=1, gpus=0)
STEPS = 40


@dataclasses.dataclass(frozen=True)
class FaultyOnce(Aggregation):
    """The teacher half does what a file in `folder` is called, once, or for as long as it is read-only."""

    folder: Path = Path()

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        (self.folder / f"pid-{os.getpid()}").touch()
        signals = super().teach(crops, networks)
        if self._told_to("die"):
            os._exit(1)
        if self._told_to("hang"):
            time.sleep(3600)
        if self._told_to("dawdle"):
            time.sleep(3)
        if self._told_to("nan"):
            return {name: signal * float("nan") for name, signal in signals.items()}
        if self._told_to("shape"):
            return {name: signal[..., 1:] for name, signal in signals.items()}
        return signals

    def _told_to(self, what: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            (self.folder / what).unlink()
            return True
        return False


@dataclasses.dataclass(frozen=True)
class DiesOf(Aggregation):
    """The process ends over one sample, always."""

    lr: bytes = b""
    """Its crop as uint8."""

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        if any((image * 255).round().byte().cpu().numpy().tobytes() == self.lr for image in crops.lr):
            os._exit(1)
        return super().teach(crops, networks)


class Bench:
    """A teacher pool that is used by several tests, each as a newer attempt from step 0 on."""

    def __init__(self, pool: TeacherPool, job: TeacherJob, folder: Path, board: object) -> None:
        self.pool, self.job, self.folder, self.board = pool, job, folder, board
        self.honest = TeacherWorker(dataclasses.replace(job, method=Aggregation()))
        self.attempts = 0

    def source(self) -> LinkSource:
        self.attempts += 1
        share = Share(self.job.images, self.job.plan, self.job.slot_size, [0, 1])
        board = self.board
        return LinkSource(
            lambda: ray.get(board.links.remote()),  # type: ignore[attr-defined]
            self.attempts,
            0,
            1,
            share,
            torch.device("cpu"),
        )

    def run(self, steps: int, faults: dict[int, Callable[[], object]]) -> dict[str, int]:
        """Take `steps` steps, with faults just before some of them; every batch must be what it always is."""
        before = self.stats()
        source = self.source()
        for step in range(steps):
            if step in faults:
                faults[step]()
            batch = source.fetch(step)
            expected = [self.honest.answer(step, slot)[1] for slot in (0, 1)]
            lr = torch.cat([torch.from_numpy(answer["lr"]) for answer in expected]).float() / 255
            assert torch.equal(batch.lr, lr)
            teachers = torch.cat([torch.from_numpy(answer["signals"]["teachers"]) for answer in expected])
            assert torch.equal(batch.signals["teachers"], teachers)
        after = self.stats()
        return {name: after[name] - before[name] for name in ("lost_workers", "hedged", "released")}

    def stats(self) -> dict[str, int]:
        return ray.get(self.pool.link.stats.remote())

    def tell(self, what: str) -> None:
        (self.folder / what).touch()

    def wait_until_done(self, what: str) -> None:
        while (self.folder / what).exists():
            time.sleep(0.05)

    def pids(self) -> list[int]:
        """Of the teachers that live; a number that another process has by now is none of them."""
        known = [int(path.name.removeprefix("pid-")) for path in self.folder.glob("pid-*")]
        return [pid for pid in known if _title(pid).startswith("ray::TeacherWorker")]


def _title(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


@pytest.fixture(scope="module")
def bench(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("faults")
    job = dataclasses.replace(make_teacher_job(folder), method=FaultyOnce(folder=folder))
    board = BoardActor.remote()
    config = LinkConfig(slot_size=2, hang_seconds=8, min_teachers=2)
    with TeacherPool(job, TWO, STEPS, 2, config, board) as pool:
        yield Bench(pool, job, folder, board)


def test_a_teacher_that_dies_over_its_answer(bench: Bench) -> None:
    assert bench.run(12, {2: lambda: bench.tell("die")})["lost_workers"] == 1


def test_a_teacher_that_is_killed_before_it_answers_and_one_that_is_killed_after_it(bench: Bench) -> None:
    def kill_idle() -> None:
        time.sleep(1)  # the window is full: all answers wait, and both workers are idle
        os.kill(bench.pids()[0], signal.SIGKILL)

    before = bench.stats()["lost_workers"]
    bench.run(12, {2: kill_idle})
    # That a worker has died shows when it is asked the next time; the other one may be done with all before that.
    deadline = time.monotonic() + 30
    while bench.stats()["lost_workers"] == before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert bench.stats()["lost_workers"] == before + 1


def test_all_teachers_killed(bench: Bench) -> None:
    def kill() -> None:
        for worker in bench.pool.workers.values():
            ray.kill(worker, no_restart=False)

    assert bench.run(12, {2: kill})["lost_workers"] >= 1


@pytest.mark.parametrize("fault", ["nan", "shape"])
def test_a_teacher_that_answers_nonsense_once_is_asked_again(bench: Bench, fault: str) -> None:
    assert bench.run(12, {3: lambda: bench.tell(fault)})["lost_workers"] == 0
    assert not (bench.folder / fault).exists()


def test_a_slow_teacher_is_hedged_or_relieved(bench: Bench) -> None:
    bench.run(20, {})  # so that it is known how long an answer takes
    counts = bench.run(12, {4: lambda: bench.tell("dawdle")})
    assert counts["hedged"] + counts["released"] >= 1
    assert counts["lost_workers"] == 0


def test_a_teacher_that_hangs_is_started_again(bench: Bench) -> None:
    before = bench.stats()["lost_workers"]
    bench.run(12, {4: lambda: bench.tell("hang")})
    source = bench.source()
    deadline = time.monotonic() + 60
    step = 0
    while bench.stats()["lost_workers"] == before and time.monotonic() < deadline:
        if step < STEPS:
            source.fetch(step)
            step += 1
        time.sleep(0.2)
    assert bench.stats()["lost_workers"] > before


@pytest.mark.slow
def test_a_stopped_process_is_killed_by_ray_and_started_again(bench: Bench) -> None:
    bench.run(2, {})  # workers tell their process with their first answer
    stopped = bench.pids()[0]
    before = bench.stats()["lost_workers"]
    bench.run(10, {2: lambda: os.kill(stopped, signal.SIGSTOP)})
    deadline = time.monotonic() + 60
    while Path(f"/proc/{stopped}").exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not Path(f"/proc/{stopped}").exists()
    assert bench.stats()["lost_workers"] > before


def test_a_student_goes_on_with_the_link_that_takes_the_place_of_a_dead_one(bench: Bench) -> None:
    def kill() -> None:
        ray.kill(bench.pool.link)
        deadline = time.monotonic() + 30
        dead = bench.pool.link
        while bench.pool.link == dead and time.monotonic() < deadline:
            bench.pool.heal()
            time.sleep(0.1)

    source = bench.source()
    for step in range(8):
        if step == 4:
            kill()
        batch = source.fetch(step)
        expected = bench.honest.answer(step, 0)[1]["signals"]["teachers"]
        assert torch.equal(batch.signals["teachers"][:2], torch.from_numpy(expected))
    notes = [record["note"] for record in ray.get(bench.board.read.remote(0))]  # type: ignore[attr-defined]
    assert any("the link died" in note for note in notes)


@pytest.mark.slow
def test_a_link_killed_in_the_middle_of_a_training_changes_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = dataclasses.replace(make_teacher_job(tmp_path), method=Unhurried())
    store = make_store(tmp_path)
    steps = 60
    student = dataclasses.replace(
        make_job(store, method=Aggregation(), steps=steps, checkpoint_every=steps),
        network=TINY_AGGREGATOR,
        num_teachers=1,
    )
    pools: list[TeacherPool] = []

    class Watched(TeacherPool):
        def __enter__(self) -> TeacherPool:
            pools.append(self)
            return super().__enter__()

    monkeypatch.setattr(trainer, "TeacherPool", Watched)
    seen: list[int] = []
    notes: list[str] = []

    def on_update(update: Update) -> None:
        if update.records and not seen:
            ray.kill(pools[0].link)
        seen.extend(record["step"] for record in update.records)
        notes.extend(update.notes)

    one = PoolSize(workers=1, cpus=1, gpus=0)
    weights = trainer.run_training(
        student, teacher, Layout(one, one), LinkConfig(slot_size=2), tmp_path / "run", on_update
    )
    assert any("the link died" in note for note in notes)
    assert seen == list(range(steps))  # each once: the student group was not started again

    alone = TrainState(student.build(), student.training)
    train(
        alone,
        alone.model,
        student.method,
        _InProcess(share(student), TeacherWorker(make_teacher_job(tmp_path))),
        student.training,
        seed=student.seed,
        rank=0,
        world_size=1,
        consumed=lambda step, checks, skipped: None,
        checkpoint=lambda: None,
        validate=lambda: None,
        post=lambda records: None,
    )
    for name, tensor in alone.result().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["error", "skip"])
def test_a_deadly_sample_ends_the_run_with_its_photograph_or_is_skipped(tmp_path: Path, policy: OnDeadly) -> None:
    job = make_teacher_job(tmp_path)
    sample = job.plan.slots(1, 2)[1][0]
    honest = TeacherWorker(job)
    name = honest._store.names[sample.image]
    job = dataclasses.replace(job, method=DiesOf(lr=honest.answer(1, 1)[1]["lr"][0].tobytes()))
    with TeacherPool(job, TWO, 6, 2, LinkConfig(slot_size=2, on_deadly=policy), BoardActor.remote()) as pool:
        both = Share(job.images, job.plan, job.slot_size, [0, 1])
        source = LinkSource(lambda: pool.links, 1, 0, 1, both, torch.device("cpu"))
        source.fetch(0)
        if policy == "error":
            match = rf"3 teacher workers died at step 1, slot 1 \(.*{name} at y={sample.y} x={sample.x}"
            with pytest.raises(RayTaskError, match=match):
                source.fetch(1)
            return
        assert len(source.fetch(1).lr) == 2
        assert both.samples(1) == job.plan.slots(1, 2)[0]
        assert len(source.fetch(2).lr) == 4
        only = Share(job.images, job.plan, job.slot_size, [1])
        with pytest.raises(LinkError, match=r"all samples of rank 0 at step 1 are skipped"):
            LinkSource(lambda: pool.links, 2, 0, 1, only, torch.device("cpu")).fetch(1)


@pytest.mark.slow
def test_a_node_that_is_lost_with_its_teacher_and_waiting_answers_costs_seconds(capsys: pytest.CaptureFixture) -> None:
    found = subprocess.run([sys.executable, "-m", "tests.node_loss"], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-2000:]
    result = re.search(r"([\d.]+) s, (\d+) times unreadable", found.stdout)
    assert result is not None
    with capsys.disabled():
        print(f"\nthe student waited {result[0]}")
    assert int(result[2]) >= 1
    assert float(result[1]) < 15  # what Ray needs to notice that a node is dead, and more than enough without it


@dataclasses.dataclass(frozen=True)
class Unhurried(Aggregation):
    """Slow enough that there is time to kill something."""

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        time.sleep(0.04)
        return super().teach(crops, networks)


@dataclasses.dataclass
class _InProcess:
    """What a link delivers, without one."""

    share: Share
    worker: TeacherWorker

    def fetch(self, step: int) -> Batch:
        answers = [self.worker.answer(step, slot)[1] for slot in self.share.slots]

        def joined(arrays: list[Any]) -> torch.Tensor:
            return unpack(arrays, torch.device("cpu"))

        return Batch(
            lr=joined([a["lr"] for a in answers]),
            hr=joined([a["hr"] for a in answers]),
            signals={name: joined([a["signals"][name] for a in answers]) for name in answers[0]["signals"]},
        )
