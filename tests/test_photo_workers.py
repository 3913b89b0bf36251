"""When a worker that renders is taken to hang, and what becomes of its task: without Ray, by clocks of our own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError

from mtkd_dist.pools import photo_workers, teacher_seconds
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.photo_workers import DEATHS, FIRST_SECONDS, LEAST_SECONDS, TIMES, Watch, hand_out
from mtkd_dist.pools.placement import Resources


def test_the_first_of_its_kind_has_half_an_hour() -> None:
    watch = Watch[str]()
    watch.begin("a", "net", now=100.0)
    assert watch.next_seconds(now=100.0) == FIRST_SECONDS
    assert watch.overdue(now=99.0 + FIRST_SECONDS) == []
    assert watch.overdue(now=100.0 + FIRST_SECONDS) == ["a"]


@given(st.floats(0.001, 1000), st.floats(0.001, 1000))
def test_later_ones_have_many_times_the_slowest_and_at_least_ten_minutes(one: float, other: float) -> None:
    watch = Watch[str]()
    for job, seconds in (("a", one), ("b", other)):
        watch.begin(job, "net", now=0.0)
        watch.end(job, now=seconds)
    assert watch.patience("net") == max(LEAST_SECONDS, TIMES * max(one, other))
    assert watch.patience("another net") == FIRST_SECONDS


def test_nobody_waits_for_those_that_are_done_or_lost() -> None:
    watch = Watch[str]()
    for job in "abc":
        watch.begin(job, "net", now=0.0)
    watch.end("a", now=1.0)
    watch.lose("b")
    assert watch.overdue(now=1e9) == ["c"]
    watch.lose("c")
    assert watch.next_seconds(now=1e9) is None
    assert watch.patience("net") == LEAST_SECONDS  # a lost one says nothing


class Pool:
    """What `hand_out` sees of Ray: one worker that does every task in a second but those that hang, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hangs: dict[str, int]) -> None:
        self.now, self.killed = 0.0, 0
        self._hangs = hangs
        self._results: dict[str, Any] = {}
        self._count = 0
        monkeypatch.setattr(photo_workers, "ray", self)
        monkeypatch.setattr(photo_workers, "time", self)
        monkeypatch.setattr(photo_workers, "_up", lambda worker: self._result("up", None))

    def monotonic(self) -> float:
        return self.now

    def _result(self, name: str, value: Any) -> str:
        self._count += 1
        self._results[f"{name} {self._count}"] = value
        return f"{name} {self._count}"

    def call(self, worker: str, task: str) -> str:
        if not self._hangs.get(task):
            return self._result(task, task.upper())
        self._hangs[task] -= 1
        self._hung = f"{task} hangs, {self._hangs[task]} times more"
        return self._hung

    def wait(self, references: list[str], timeout: float) -> tuple[list[str], list[str]]:
        done = [reference for reference in references if reference in self._results]
        self.now += 1.0 if done else timeout
        return done, []

    def get(self, reference: str) -> Any:
        value = self._results[reference]
        if isinstance(value, Exception):
            raise value
        return value

    def kill(self, worker: str, no_restart: bool) -> None:
        assert not no_restart
        self.killed += 1
        self._results[self._hung] = RayActorError()


def test_a_worker_that_hangs_is_killed_and_its_task_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, hangs={"b": 1})
    assert dict(hand_out(["worker"], list("abc"), pool.call, str)) == {"a": "A", "b": "B", "c": "C"}  # type: ignore[list-item]
    assert pool.killed == 1
    assert LEAST_SECONDS <= pool.now < LEAST_SECONDS + 60


def test_a_task_over_which_every_worker_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(monkeypatch, hangs={"a": DEATHS})
    with pytest.raises(TrainingFailed, match=rf"workers died of photograph a, {DEATHS} times \(no end within 1800 s\)"):
        list(hand_out(["worker"], list("ab"), pool.call, lambda task: f"photograph {task}"))  # type: ignore[list-item]
    assert pool.killed == DEATHS


def test_a_timing_that_does_not_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cancelled = list[str]()

    class Task:
        def options(self, **options: Any) -> Task:
            return self

        def remote(self, *arguments: Any) -> str:
            return "reference"

    def get(reference: str, timeout: float) -> None:
        raise teacher_seconds.ray.exceptions.GetTimeoutError

    monkeypatch.setattr(teacher_seconds.ray, "remote", lambda function: Task())
    monkeypatch.setattr(teacher_seconds.ray, "get", get)
    monkeypatch.setattr(teacher_seconds.ray, "cancel", lambda reference, force: cancelled.append(reference))
    monkeypatch.setattr(teacher_seconds.ray, "available_resources", lambda: {"CPU": 0.0})
    with pytest.raises(TrainingFailed, match=r"did not end within 600 s; it wants one CPU.*--teacher-outputs live"):
        teacher_seconds.seconds_per_pixel((), "dctswin", None, 8, "float32", Resources(cpus=2, gpus=0))  # type: ignore[arg-type]
    assert cancelled == ["reference"]
