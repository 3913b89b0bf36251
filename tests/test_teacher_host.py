"""What a host does for several trainings, without Ray: answers, memory and manners."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mtkd_dist.methods import MTKD, Aggregation, Crops, FrozenNetworks
from mtkd_dist.models import digest_file
from mtkd_dist.pools import teacher_worker
from mtkd_dist.pools.patience import FIRST
from mtkd_dist.pools.teacher_handle import UnknownLink
from mtkd_dist.pools.teacher_host import LONGER, TeacherHost
from mtkd_dist.pools.teacher_hosts import SharedTeachers
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker, digests_of
from mtkd_dist.pools.watchdog import Watchdog
from tests.nets import make_aggregator, make_teacher_job


@pytest.fixture
def job(tmp_path: Path) -> TeacherJob:
    return make_teacher_job(tmp_path, ("a", "b"))


HANG_SECONDS = 60.0


class Link:
    """Hears of what is begun."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.began = SimpleNamespace(remote=self.heard.append)


def ask(host: TeacherHost, name: str, step: int = 0, slot: int = 0, alone: bool = False) -> Any:
    return host.answer(name, 1, step, slot, alone)[1]


def assert_same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found["lr"], expected["lr"])
    np.testing.assert_array_equal(found["hr"], expected["hr"])
    assert found["signals"].keys() == expected["signals"].keys()
    for name, signal in expected["signals"].items():
        np.testing.assert_array_equal(found["signals"][name], signal)


def second_stage(job: TeacherJob, folder: Path, seed: int = 0) -> TeacherJob:
    """Another job of the same teachers: other method, crops and slots, and an aggregator of its own."""
    folder.mkdir()
    torch.manual_seed(seed)
    aggregator = make_aggregator(folder, job.teachers)
    plan = dataclasses.replace(job.plan, patch=6, batch_size=3, seed=7)
    return dataclasses.replace(
        job, method=MTKD(), plan=plan, slot_size=1, aggregator=aggregator, aggregator_digest=digest_file(aggregator)
    )


def test_jobs_of_several_trainings_get_the_answers_that_a_worker_of_their_own_gives(
    job: TeacherJob, tmp_path: Path
) -> None:
    jobs = {"one": job, "two": second_stage(job, tmp_path / "two"), "three": second_stage(job, tmp_path / "three", 1)}
    host = TeacherHost(job, max_guests=3, threads=1)
    for name, its in jobs.items():
        assert host.greet(name, Link(), its, HANG_SECONDS) == its.plan.digest
    own = {name: TeacherWorker(its) for name, its in jobs.items()}
    for step in range(3):
        for name, worker in own.items():
            assert_same(ask(host, name, step, slot=1), worker.answer(step, 1)[1])


def test_teachers_are_loaded_once_and_an_aggregator_once_for_all_that_have_the_same(
    job: TeacherJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        load = getattr(teacher_worker, name)

        def call(path: Path, *args: Any, **options: Any) -> Any:
            loaded.append(path.name)
            return load(path, *args, **options)

        return call

    for name in ("load_network", "load_aggregator"):
        monkeypatch.setattr(teacher_worker, name, counted(name))
    host = TeacherHost(job, max_guests=3, threads=1)
    second = second_stage(job, tmp_path / "two")
    for name, its in {"one": job, "two": second, "three": dataclasses.replace(second, method=MTKD(levels=2))}.items():
        host.greet(name, Link(), its, HANG_SECONDS)
    assert loaded == ["a.safetensors", "b.safetensors", "aggregator.safetensors"]


def test_the_link_that_has_not_asked_for_longest_is_forgotten_with_its_aggregator(
    job: TeacherJob, tmp_path: Path
) -> None:
    host = TeacherHost(job, max_guests=2, threads=1)
    host.greet("old", Link(), second_stage(job, tmp_path / "old"), HANG_SECONDS)
    host.greet("active", Link(), second_stage(job, tmp_path / "active", 1), HANG_SECONDS)
    old, active = (weakref.ref(host._guests[name].worker.networks.aggregator) for name in ("old", "active"))
    ask(host, "active")
    host.greet("new", Link(), job, HANG_SECONDS)
    gc.collect()
    assert old() is None
    assert active() is not None
    with pytest.raises(UnknownLink):
        ask(host, "old")
    ask(host, "active")
    ask(host, "new")


def test_a_link_is_told_when_its_answer_is_begun(job: TeacherJob) -> None:
    host = TeacherHost(job, max_guests=2, threads=1)
    links = {"one": Link(), "two": Link()}
    for name, link in links.items():
        host.greet(name, link, job, HANG_SECONDS)
    host.answer("one", 17, 0, 0, False)
    assert [link.heard for link in links.values()] == [[17], []]


def test_an_answer_may_take_longer_than_its_link_has_patience_which_kills_the_host_before_if_it_lives(
    job: TeacherJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[float] = []

    @contextlib.contextmanager
    def over(_: Watchdog, seconds: float) -> Iterator[None]:
        watched.append(seconds)
        yield

    monkeypatch.setattr(Watchdog, "over", over)
    host = TeacherHost(job, max_guests=2, threads=1)
    host.greet("one", Link(), job, 60)
    host.greet("other", Link(), job, 10)
    for name in ("one", "one", "other", "one"):
        ask(host, name)
    first = LONGER * FIRST
    assert watched == [first * 60, first * 10, first * 60, LONGER * 60, first * 10, LONGER * 60]
    assert LONGER > 1


def test_a_job_whose_images_are_others_by_now_is_refused(job: TeacherJob) -> None:
    host = TeacherHost(job, max_guests=1, threads=1)
    other = dataclasses.replace(job, plan=dataclasses.replace(job.plan, dataset_digest="0" * 64))
    with pytest.raises(ValueError, match="holds other images than this run began with"):
        host.greet("one", Link(), other, HANG_SECONDS)


@dataclasses.dataclass(frozen=True)
class Broken(Aggregation):
    def teach(self, crops: Crops, networks: Any) -> dict[str, torch.Tensor]:
        raise RuntimeError("the lamp is out")


@pytest.mark.parametrize(("good_ones_between", "exits"), [(False, [1]), (True, [])])
def test_a_host_that_fails_at_everything_ends_and_one_that_fails_one_training_does_not(
    job: TeacherJob, monkeypatch: pytest.MonkeyPatch, good_ones_between: bool, exits: list[int]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    host = TeacherHost(job, max_guests=2, threads=1)
    host.greet("bad", Link(), dataclasses.replace(job, method=Broken()), HANG_SECONDS)
    host.greet("good", Link(), job, HANG_SECONDS)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            ask(host, "bad")
        if good_ones_between:
            ask(host, "good")
    host.exit_if_broken()
    assert ended == exits


@dataclasses.dataclass(frozen=True)
class Gated(Aggregation):
    """Holds each answer until the gate is open."""

    at_work = threading.Semaphore(0)
    gate = threading.Event()

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        Gated.at_work.release()
        assert Gated.gate.wait(30)
        return super().teach(crops, networks)


def test_what_is_asked_alone_waits_for_the_others_and_they_for_it(job: TeacherJob) -> None:
    """Two at a time otherwise. That those who want to be alone do not block each other shows in that it ends."""
    Gated.gate.clear()
    host = TeacherHost(job, max_guests=4, threads=2)
    # Answers of one link have one turn on a CPU.
    for name in "abcd":
        host.greet(name, Link(), dataclasses.replace(job, method=Gated()), HANG_SECONDS)
    heard = {name: host._guests[name].link.heard for name in "abcd"}
    threads = {name: threading.Thread(target=ask, args=(host, name, 0, 0, name in "cd")) for name in "abcd"}
    for name in "ab":
        threads[name].start()
        assert Gated.at_work.acquire(timeout=30)
    for name in "cd":
        threads[name].start()
    threads["c"].join(0.2)
    assert [len(numbers) for numbers in heard.values()] == [1, 1, 0, 0]
    Gated.gate.set()
    for thread in threads.values():
        thread.join(30)
    assert [len(numbers) for numbers in heard.values()] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scale": 3}, r"the scale of this training: 3; of the teachers that all trainings share: 2"),
        ({"precision": "bfloat16"}, r"teacher_precision of this training: bfloat16; .*: auto\. They must"),
        ({"teachers": slice(1, None)}, r"teachers of this training: b \(SHA-256 \w{12}, .*share: a \(SHA-256"),
    ],
)
def test_a_training_with_other_teachers_than_those_that_are_shared_is_refused(
    job: TeacherJob, change: dict[str, Any], said: str
) -> None:
    digests = digests_of(job.teachers)
    hosted = tuple(dataclasses.replace(t, digest=digests[t.name]) for t in job.teachers)
    shared = SharedTeachers({}, hosted, job.scale, job.precision, 1)
    shared.check(job)
    if "teachers" in change:
        change = {"teachers": job.teachers[change["teachers"]]}
    with pytest.raises(ValueError, match=said):
        shared.check(dataclasses.replace(job, **change))
