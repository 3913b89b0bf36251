"""Trainings that share teachers, on real processes: what they get, and what none of them does to the others."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.methods import MTKD, Aggregation, Crops, FrozenNetworks
from mtkd_dist.pools.board import BoardActor
from mtkd_dist.pools.device import use_threads
from mtkd_dist.pools.link import LinkError
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.teacher_hosts import SharedTeacherPool, SharedTeachers, TeacherHosts
from mtkd_dist.pools.teacher_pool import TeacherPool
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker
from mtkd_dist.train.answered_here import AnsweredHere
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.link_source import LinkSource
from mtkd_dist.train.live import live_source
from mtkd_dist.train.loop import train
from mtkd_dist.train.source import Source
from mtkd_dist.train.state import TrainState
from tests.nets import TINY_AGGREGATOR, make_aggregator, make_job, make_store, make_teacher_job, share

pytestmark = pytest.mark.usefixtures("ray_cluster")
ONE = PoolSize(workers=1, cpus=1, gpus=0)
CPU = torch.device("cpu")
STEPS, MEET = 40, 5


@dataclasses.dataclass(frozen=True)
class Slow:
    """Not too quick, so that there is time to kill something; each process that answers leaves a file."""

    folder: Path = Path()

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        (self.folder / f"pid-{os.getpid()}").touch()
        time.sleep(0.02)
        return super().teach(crops, networks)  # type: ignore[misc]


@dataclasses.dataclass(frozen=True)
class Noted(Slow, Aggregation):
    pass


@dataclasses.dataclass(frozen=True)
class NotedMTKD(Slow, MTKD):
    pass


@dataclasses.dataclass(frozen=True)
class Dark(Aggregation):
    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        raise RuntimeError("the lamp is out")


@dataclasses.dataclass(frozen=True)
class DiesOf(Aggregation):
    """The process ends over one sample, always."""

    lr: bytes = b""

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        if any((image * 255).round().byte().numpy().tobytes() == self.lr for image in crops.lr):
            os._exit(1)
        return super().teach(crops, networks)


@dataclasses.dataclass(frozen=True)
class HangsOnce(Aggregation):
    flag: Path = Path()

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        with contextlib.suppress(FileNotFoundError):
            self.flag.unlink()
            time.sleep(3600)
        return super().teach(crops, networks)


@ray.remote
class Trial:
    """One training in one process, as a sweep makes it."""

    def train(
        self, shared: SharedTeachers, teacher: TeacherJob, student: StudentJob, progress: Path
    ) -> dict[str, torch.Tensor]:
        link = LinkConfig(slot_size=student.slot_size, hang_seconds=8)
        with live_source(shared, teacher, student, link) as source:
            return train_with(source(1, share(student), CPU), student, progress)

    def open(self, shared: SharedTeachers, teacher: TeacherJob) -> list[ActorHandle]:
        """Links that stay for as long as this process does."""
        self.pool = SharedTeacherPool(shared, teacher, STEPS, 2, LinkConfig(slot_size=2)).__enter__()
        return self.pool.links

    def stats(self) -> dict[str, Any]:
        return self.pool.stats(timeout=30)


def train_with(source: Source, student: StudentJob, progress: Path) -> dict[str, torch.Tensor]:
    use_threads(1)
    state = TrainState(student.build(), student.training)
    train(
        state,
        state.model,
        student.method,
        source,
        student.training,
        seed=student.seed,
        rank=0,
        world_size=1,
        consumed=lambda step, checks, skipped: write_and_meet(progress, step),
        checkpoint=lambda: None,
        validate=lambda: None,
        post=lambda records: None,
    )
    return state.result()


def write_and_meet(progress: Path, step: int) -> None:
    """Those that run side by side are to do so also where one of them has started much later."""
    progress.write_text(str(step))
    if step == MEET:
        wait_for((progress.parent / "go").exists, seconds=90)


@dataclasses.dataclass
class Bench:
    shared: SharedTeachers
    teacher: TeacherJob
    folder: Path

    @property
    def host(self) -> ActorHandle:
        return self.shared.hosts["teacher-0"]

    def student(self, **training: object) -> StudentJob:
        job = make_job(make_store(self.folder), method=Aggregation(), steps=STEPS, checkpoint_every=0, **training)
        return dataclasses.replace(job, network=TINY_AGGREGATOR, num_teachers=1)


@pytest.fixture(scope="module")
def bench(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("hosts")
    teacher = make_teacher_job(folder)
    with TeacherHosts(teacher, ONE, trainings=2) as shared:
        yield Bench(shared, teacher, folder)


@contextlib.contextmanager
def group_of_a_trial() -> Iterator[PlacementGroupSchedulingStrategy]:
    """What Ray Tune gives a trial: what it starts belongs to the group too, unless told otherwise."""
    group = placement_group([{"CPU": 1}])
    assert group.wait(30)
    yield PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    remove_placement_group(group)


def second_stage(bench: Bench, folder: Path) -> tuple[StudentJob, TeacherJob]:
    """Another method than `Bench.student`, other crops and slots, and an aggregator of its own."""
    student = dataclasses.replace(
        make_job(make_store(bench.folder), method=MTKD(), steps=STEPS, batch_size=3, patch=6, checkpoint_every=0),
        slot_size=1,
    )
    aggregator = make_aggregator(folder, bench.teacher.teachers)
    method = NotedMTKD(folder=folder)
    return student, dataclasses.replace(
        bench.teacher, method=method, plan=student.plan, slot_size=1, aggregator=aggregator
    )


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def pid_of(actor: ActorHandle) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


def only_the_host_is_reserved() -> bool:
    return ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"] - ONE.cpus


def wait_for(what: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def step_of(progress: Path) -> int:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(progress.read_text())
    return -1


def test_two_trainings_at_once_and_a_killed_host_change_no_weight_and_leave_nothing_reserved(
    bench: Bench, tmp_path: Path
) -> None:
    first, teacher_1 = bench.student(), dataclasses.replace(bench.teacher, method=Noted(folder=tmp_path))
    second, teacher_2 = second_stage(bench, tmp_path)
    steps = [tmp_path / "first", tmp_path / "second"]
    with group_of_a_trial() as one, group_of_a_trial() as other:
        trials = [Trial.options(num_cpus=1, scheduling_strategy=where).remote() for where in (one, other)]
        running = [
            trial.train.remote(bench.shared, teacher, student, progress)
            for trial, teacher, student, progress in zip(
                trials, [teacher_1, teacher_2], [first, second], steps, strict=True
            )
        ]
        wait_for(lambda: [step_of(progress) for progress in steps] == [MEET, MEET], seconds=90)
        (tmp_path / "go").touch()
        time.sleep(0.2)
        ray.kill(bench.host, no_restart=False)
        assert max(map(step_of, steps)) < STEPS - 1
        found = ray.get(running)
    assert len(list(tmp_path.glob("pid-*"))) == 2  # the host before and after its death; no others answered
    wait_for(only_the_host_is_reserved)

    for teacher, student, weights in zip([teacher_1, teacher_2], [first, second], found, strict=True):
        worker = TeacherWorker(dataclasses.replace(teacher, method=student.method))
        assert_equal(weights, train_with(AnsweredHere(share(student), worker, CPU), student, tmp_path / "alone"))


def is_dead(actor: ActorHandle) -> bool:
    """Ray ends actors whose owner is gone a moment later."""
    try:
        ray.get(actor.stats.remote(), timeout=30)
    except RayActorError:
        return True
    return False


def test_a_trial_that_is_killed_takes_its_links_with_it_and_nothing_else(bench: Bench) -> None:
    with group_of_a_trial() as where:
        trial = Trial.options(num_cpus=1, scheduling_strategy=where).remote()
        (link,) = ray.get(trial.open.remote(bench.shared, bench.teacher))
        group_of_link = ray.get(link.__ray_call__.remote(lambda self: ray.util.get_current_placement_group()))
        assert group_of_link is None
        ray.get(link.attach.remote(1, 0, 1, 0, bench.teacher.plan.digest))
        ray.get(link.take.remote(1, 0, 0, [0]))
        assert ray.get(trial.stats.remote())["workers"] == 1
        host = pid_of(bench.host)
        ray.kill(trial)
    wait_for(lambda: is_dead(link))
    wait_for(only_the_host_is_reserved)
    assert pid_of(bench.host) == host


def test_the_thread_that_trains_is_told_in_words_what_the_teachers_failed_at(bench: Bench) -> None:
    student = bench.student()
    dark = dataclasses.replace(bench.teacher, method=Dark())
    with (
        live_source(bench.shared, dark, student, LinkConfig(slot_size=2)) as source,
        pytest.raises(LinkError, match=r"failed at step 0, slot \d: .*the lamp is out"),
    ):
        source(1, share(student), CPU).fetch(0)


def test_a_source_starts_another_link_in_the_place_of_a_dead_one_and_none_when_the_training_is_over(
    bench: Bench,
) -> None:
    student, said = bench.student(), bench.folder / "said"
    with live_source(bench.shared, bench.teacher, student, LinkConfig(slot_size=2), _Say(said)) as source:
        its = source(1, share(student), CPU)
        first = its.fetch(0)
        ray.kill(its._links[0])
        again = its.fetch(0)
        assert torch.equal(first.signals["teachers"], again.signals["teachers"])
        assert "the link died" in said.read_text()
    # Ray ends the link a moment after it is told to: until then answers that are there are still handed out.
    with pytest.raises(LinkError, match="is over"):
        wait_for(lambda: its.fetch(1) is None)


@dataclasses.dataclass(frozen=True)
class _Say:
    file: Path

    def __call__(self, note: str) -> None:
        self.file.write_text(note)


@pytest.mark.slow
def test_a_slot_that_kills_the_host_is_skipped_in_its_own_training_and_costs_the_other_no_sample(
    bench: Bench, tmp_path: Path
) -> None:
    sample = TeacherWorker(bench.teacher).answer(1, 1)[1]["lr"][0].tobytes()
    deadly = dataclasses.replace(bench.teacher, method=DiesOf(lr=sample))
    student = bench.student()
    other = Trial.options(num_cpus=1).remote()
    running = other.train.remote(
        bench.shared, dataclasses.replace(bench.teacher, method=Noted(folder=tmp_path)), student, tmp_path / "other"
    )
    wait_for(lambda: step_of(tmp_path / "other") == MEET)
    (tmp_path / "go").touch()
    config = LinkConfig(slot_size=2, on_deadly="skip")
    with live_source(bench.shared, deadly, student, config) as source:
        its = source(1, share(student), CPU)
        assert len(its.fetch(0).lr) == 4
        assert len(its.fetch(1).lr) == 2
    worker = TeacherWorker(bench.teacher)
    assert_equal(ray.get(running), train_with(AnsweredHere(share(student), worker, CPU), student, tmp_path / "alone"))


@pytest.mark.slow
def test_a_host_that_hangs_over_one_training_is_started_again_for_all(bench: Bench, tmp_path: Path) -> None:
    flag = tmp_path / "hang"
    hanging = dataclasses.replace(bench.teacher, method=HangsOnce(flag=flag))
    student = bench.student()
    with live_source(bench.shared, hanging, student, LinkConfig(slot_size=2, hang_seconds=3)) as source:
        its = source(1, share(student), CPU)
        its.fetch(0)
        flag.touch()
        patient = LinkConfig(slot_size=2, hang_seconds=600)
        with live_source(bench.shared, bench.teacher, student, patient) as other:
            waiting = other(1, share(student), CPU)
            for step in range(1, 6):
                assert len(its.fetch(step).lr) == len(waiting.fetch(step).lr) == 4
    assert not flag.exists()


@pytest.mark.slow
def test_a_host_that_hangs_over_a_training_that_is_gone_is_started_again_for_the_others(
    bench: Bench, tmp_path: Path
) -> None:
    flag = tmp_path / "hang"
    hanging = dataclasses.replace(bench.teacher, method=HangsOnce(flag=flag))
    student = bench.student()
    host = pid_of(bench.host)
    with live_source(bench.shared, hanging, student, LinkConfig(slot_size=2, hang_seconds=4)) as source:
        its = source(1, share(student), CPU)
        its.fetch(0)
        flag.touch()
        wait_for(lambda: not flag.exists())
    patient = LinkConfig(slot_size=2, hang_seconds=600)
    with live_source(bench.shared, bench.teacher, student, patient) as other:
        assert len(other(1, share(student), CPU).fetch(0).lr) == 4
    assert pid_of(bench.host) != host


@pytest.mark.slow
def test_a_training_through_hosts_has_the_weights_of_one_with_a_pool_of_its_own(bench: Bench, tmp_path: Path) -> None:
    student, teacher = second_stage(bench, tmp_path)
    (tmp_path / "go").touch()
    link = LinkConfig(slot_size=1)
    with TeacherPool(teacher, ONE, STEPS, student.slots_per_step, link, BoardActor.remote()) as pool:
        own = train_with(LinkSource(lambda: pool.links, 1, 0, 1, share(student), CPU), student, tmp_path / "own")
    with live_source(bench.shared, teacher, student, link) as source:
        assert_equal(train_with(source(1, share(student), CPU), student, tmp_path / "shared"), own)
