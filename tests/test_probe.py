from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.data import ImageStore
from mtkd_dist.methods import MTKD
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.probe import line_through, median_seconds, serial_share
from mtkd_dist.train.probe import Probe, run_probe
from tests.nets import make_aggregator, make_job, make_teacher_job


class _Work:
    """Calls that take the seconds of a list, the last one for ever, by a clock of its own."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = list(seconds)
        self.now = 0.0
        self.calls = 0

    def __call__(self) -> None:
        self.now += self._seconds[min(self.calls, len(self._seconds) - 1)]
        self.calls += 1

    def clock(self) -> float:
        return self.now


def test_what_the_first_calls_take_is_not_counted() -> None:
    work = _Work(9.0, 5.0, 1.0)
    assert median_seconds(work, 10.0, work.clock) == 1.0


def test_one_slow_call_is_no_median() -> None:
    work = _Work(1.0, 1.0, 1.0, 50.0, 1.0, 1.0)
    assert median_seconds(work, 53.5, work.clock) == 1.0


def test_no_call_is_begun_after_the_budget() -> None:
    work = _Work(1.0)
    median_seconds(work, 5.0, work.clock)
    assert work.now <= 2 + 5


def test_work_that_is_longer_than_the_budget_is_done_twice_and_no_more() -> None:
    work = _Work(100.0)
    assert median_seconds(work, 5.0, work.clock) == 100.0
    assert work.calls == 2


@given(st.floats(0, 10), st.floats(0.001, 10), st.integers(1, 8), st.integers(1, 8))
def test_two_batch_sizes_tell_the_step_from_its_images(step: float, image: float, small: int, more: int) -> None:
    points = [(float(n), step + n * image) for n in (small, small + more)]
    found_step, found_image = line_through(points)
    # Where the step itself is nothing, rounding decides on which side of 0 it falls.
    assert found_step == pytest.approx(step, abs=1e-9)
    assert found_image == pytest.approx(image, abs=1e-9)


@given(st.floats(0.001, 10), st.floats(0.001, 10))
def test_noise_never_makes_work_that_takes_less_than_nothing(first: float, second: float) -> None:
    step, image = line_through([(4.0, first), (16.0, second)])
    assert step >= 0
    assert image > 0
    assert step + 16 * image == pytest.approx(second)


@given(st.floats(0, 1), st.integers(2, 64))
def test_the_serial_share_predicts_what_it_was_measured_from(serial: float, threads: int) -> None:
    many = 3.0 * (serial + (1 - serial) / threads)
    assert serial_share(3.0, many, threads) == pytest.approx(serial, abs=1e-9)
    assert serial_share(3.0, 4.0, threads) == 1.0


@pytest.mark.parametrize("aggregates", [False, True])
def test_both_halves_of_a_stage_are_timed_on_its_own_photographs(tmp_path: Path, aggregates: bool) -> None:
    teacher = make_teacher_job(tmp_path, ("a", "b"))
    job = make_job(ImageStore.open(teacher.images))
    if aggregates:
        teacher = dataclasses.replace(
            teacher, method=MTKD(), aggregator=make_aggregator(tmp_path, teacher.teachers), plan=job.plan
        )
        job = dataclasses.replace(job, method=MTKD())
    else:
        job = dataclasses.replace(job, method=teacher.method, num_teachers=2, network="dctswin:width=12,groups=1")
    costs = Probe(teacher, job, 1, budget_seconds=0.05, put=lambda a: a, get=lambda a: a).measure()
    assert costs.teachers.keys() == {"a", "b"}
    assert (costs.aggregator > 0) == aggregates
    assert costs.patch == job.plan.patch
    assert 0 < costs.cut < costs.teacher
    assert costs.student_image > 0
    assert costs.read > 0
    assert costs.render_pixel == pytest.approx((costs.teachers["a"] + costs.teachers["b"] + costs.aggregator) / 64)
    assert costs.serial == 1


@pytest.mark.usefixtures("ray_cluster")
def test_a_probe_that_fails_is_told_in_few_words(tmp_path: Path) -> None:
    teacher = make_teacher_job(tmp_path)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"torn")
    broken = dataclasses.replace(teacher, teachers=(dataclasses.replace(teacher.teachers[0], path=torn),))
    job = make_job(ImageStore.open(teacher.images))
    with pytest.raises(TrainingFailed, match=r"the probe of the split failed: .*torn\.safetensors"):
        run_probe(broken, job, 1)
