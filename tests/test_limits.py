"""What limited a run and what would mend it: a table of cases, and what holds for every advice."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.pools.split import (
    Costs,
    Devices,
    Split,
    Step,
    cached_forecast,
    forecast,
    possible_splits,
    students_forecast,
)
from mtkd_dist.report.limits import Cached, Ran, judge, link_text, observed, sentence

GPUS = Devices(8, "GPU")


def ran(
    split: Split, teachers: tuple[float, float, float], students: tuple[float, float, float], **more: object
) -> Ran:
    """At 10 images/s; shares as (working, starved, held back)."""
    values = {"devices": GPUS, "step": Step(16, 8), "images_per_second": 10.0, "waited_seconds": 60.0} | more
    return Ran(split, teachers=PoolShares(*teachers), students=PoolShares(*students), **values)  # type: ignore[arg-type]


def simulated(costs: Costs, split: Split, devices: Devices, step: Step) -> Ran:
    """A run in which the model is the truth."""
    rate = forecast(costs, split, step).images_per_second
    teachers = rate * costs.teacher / split.teachers
    students = rate * costs.step_seconds(step.batch_size / split.students, split.threads) / step.batch_size
    return Ran(
        split, devices, step, PoolShares(teachers, 0, 1 - teachers), PoolShares(students, 1 - students, 0), rate, 60.0
    )


@pytest.mark.parametrize(
    ("run", "limit", "said"),
    [
        (
            ran(Split(4, 4), (1, 0, 0), (0.39, 0.61, 0)),
            "teachers",
            [
                "the teachers were the limit: students waited 61% of the time (1 min 00 s)",
                "--teacher-gpus 6 --student-gpus 2 would give about +28%",
                "on 1 GPU more, one more teacher worker (5 instead of 4) would give about +25%",
                "--num-gpus 9 --teacher-gpus 5 --student-gpus 4",
            ],
        ),
        (
            ran(Split(7, 1), (0.2, 0, 0.8), (1, 0, 0)),
            "students",
            [
                "the students were the limit: teachers were held back 80% of the time, students waited 0%",
                "--teacher-gpus 4 --student-gpus 4 would give about +186%",
            ],
        ),
        (
            ran(Split(1, 1), (1, 0, 0), (0.5, 0.5, 0), devices=Devices(4, "CPU")),
            "teachers",
            [
                "one more teacher worker (2 instead of 1) would give about +100% "
                "(--cluster.teacher-workers 2 --cluster.student-workers 1)"
            ],
        ),
        (ran(Split(6, 2), (0.97, 0.03, 0), (0.93, 0.07, 0)), "balanced", ["the pools were balanced"]),
        (
            ran(Split(6, 2), (0.4, 0.0, 0.6), (0.5, 0.5, 0)),
            "link",
            ["neither pool was the limit", "raise --link.window-steps, which gives up to +100%"],
        ),
        (
            ran(Split(6, 2), (0.4, 0.0, 0.6), (0.5, 0.5, 0), window_full_bytes=True),
            "link",
            ["raise --link.max-bytes"],
        ),
        (
            ran(Split(6, 2), (0.4, 0.0, 0.6), (0.5, 0.5, 0), spilled_bytes=5_000_000),
            "link",
            ["Ray wrote 5.0 MB to disk", "give Ray's object store more memory"],
        ),
        (ran(Split(6, 2), (0.4, 0.6, 0.0), (0.5, 0.5, 0)), "link", ["--link.slot-size"]),
        # A student that writes checkpoints is not waiting for anybody.
        (ran(Split(6, 2), (0.5, 0, 0.5), (0.6, 0, 0.4)), "students", ["the students were the limit"]),
        (
            ran(Split(1, 1, shared=True), (0.6, 0.4, 0), (0.4, 0.6, 0), devices=Devices(1, "GPU")),
            "one device",
            ["both pools took turns on one device", "on a second GPU", "up to +67%"],
        ),
    ],
)
def test_the_sentence_says_what_limits_and_what_to_change(run: Ran, limit: str, said: list[str]) -> None:
    verdict = judge(run)
    assert verdict.limit == limit
    for words in said:
        assert words in sentence(run, verdict)


@pytest.mark.parametrize(
    ("run", "limit", "said"),
    [
        (
            ran(Split(0, 4), (0, 0, 0), (0.9, 0.02, 0.08), devices=Devices(4, "GPU")),
            "students",
            "the students were the limit: they waited 2% of the time for data; on 4 GPUs more, 4 more student workers "
            "(8 instead of 4) would give about +100% (--num-gpus 8)",
        ),
        (
            ran(Split(0, 1, threads=2), (0, 0, 0), (0.98, 0.02, 0), devices=Devices(2, "CPU")),
            "students",
            "the students were the limit: they waited 2% of the time for data; on 2 CPUs more, 1 more student worker "
            "(2 instead of 1) would give about +100% (--cluster.student-workers 2)",
        ),
        (
            ran(Split(0, 8), (0, 0, 0), (1, 0, 0)),
            "students",
            "the students were the limit: they waited 0% of the time for data",
        ),
        (
            ran(Split(0, 8), (0, 0, 0), (0.4, 0.6, 0)),
            "reading",
            "reading was the limit: students waited 60% of the time (1 min 00 s) for what they cut from files; "
            "faster storage of what they cut from gives up to +150%",
        ),
    ],
)
def test_students_without_a_teacher_pool_have_their_sentence_too(run: Ran, limit: str, said: str) -> None:
    assert judge(run).limit == limit
    assert sentence(run, judge(run)) == said


def test_nothing_is_advised_that_gains_nothing() -> None:
    run = ran(Split(6, 2), (1, 0, 0), (1, 0, 0))
    assert judge(run).advice == ()
    assert sentence(run, judge(run)).startswith("the pools were balanced")


def test_cached_answers_are_advised_where_rendering_pays() -> None:
    costs = Costs(1.0, 0.0, 0.1, 1e-6, 1e-6, {"a": 1.0}, 0.0, patch=32)
    run = simulated(costs, Split(7, 1), GPUS, Step(16, 8))
    photographs = 100 * 512**2
    long, short = (judge(run, costs, Cached(photographs, images)) for images in (10**6, 10**3))
    assert "--teacher-outputs cached" in sentence(run, long)
    assert "--teacher-outputs cached" not in sentence(run, short)
    # Following it takes as long as is said.
    seconds = cached_forecast(costs, GPUS, Step(16, 8), photographs).stage_seconds(10**6)
    assert long.advice[-1].gain == pytest.approx(10**6 / run.images_per_second / seconds - 1)


seconds = st.floats(0.01, 10)
all_costs = st.builds(
    lambda t, step, image, serial: Costs(t, step, image, 1e-9, 1e-9, {"a": t}, 0.0, serial),
    seconds,
    st.floats(0, 10),
    seconds,
    st.floats(0, 1),
)
situations = st.tuples(
    all_costs,
    st.builds(Devices, count=st.integers(2, 16), kind=st.sampled_from(["GPU", "CPU"])),
    st.builds(lambda slots: Step(2 * slots, slots), st.integers(1, 12)),
).flatmap(lambda s: st.tuples(st.just(s[0]), st.sampled_from(possible_splits(*s[1:])), *map(st.just, s[1:])))


@given(situations)
def test_whoever_follows_an_advice_gets_what_was_promised(case: tuple[Costs, Split, Devices, Step]) -> None:
    costs, split, devices, step = case
    run = simulated(costs, split, devices, step)
    for advice in judge(run, costs).advice:
        assert advice.gain >= 0
        used = advice.split.teachers + advice.split.students * advice.split.threads
        assert used <= devices.count + advice.more_devices
        assert step.slots % advice.split.students == 0
        followed = simulated(costs, advice.split, devices, step)
        assert followed.images_per_second / run.images_per_second - 1 == pytest.approx(advice.gain, rel=1e-6)


@given(situations)
def test_a_student_more_gives_what_was_promised_without_a_teacher_pool_as_well(
    case: tuple[Costs, Split, Devices, Step],
) -> None:
    costs, split, devices, step = case
    split = dataclasses.replace(split, teachers=0)
    rate = students_forecast(costs, split, step).images_per_second
    run = Ran(split, devices, step, PoolShares(0, 0, 0), PoolShares(1, 0, 0), rate)
    for advice in judge(run, costs).advice:
        assert step.slots % advice.split.students == 0
        assert advice.split.students * advice.split.threads <= devices.count + advice.more_devices
        followed = students_forecast(costs, advice.split, step).images_per_second
        assert followed / rate - 1 == pytest.approx(advice.gain, rel=1e-6)


@given(situations)
def test_an_advice_on_the_same_devices_is_the_best_there_is(case: tuple[Costs, Split, Devices, Step]) -> None:
    costs, split, devices, step = case
    run = simulated(costs, split, devices, step)
    verdict = judge(run, costs)
    free = [advice for advice in verdict.advice if not advice.more_devices]
    fastest = max(forecast(costs, other, step).images_per_second for other in possible_splits(devices, step))
    reached = max([1.0, *(1 + advice.gain for advice in free)]) * run.images_per_second
    assert reached == pytest.approx(fastest, rel=0.031)


@given(situations)
def test_a_run_shows_the_seconds_that_it_was_made_of(case: tuple[Costs, Split, Devices, Step]) -> None:
    costs, split, devices, step = case
    # What the probe saw on quieter devices.
    probe = dataclasses.replace(costs, teacher=costs.teacher / 3, student_step=costs.student_step / 2)
    probe = dataclasses.replace(probe, student_image=costs.student_image / 2)
    seen = observed(simulated(costs, split, devices, step), probe)
    assert seen.teacher == pytest.approx(costs.teacher)
    assert seen.student_image == pytest.approx(costs.student_image)
    assert seen.student_step == pytest.approx(costs.student_step)


def test_the_link_is_told_in_slots_and_bytes() -> None:
    assert link_text(3, 8, 12_000_000, None) == "3 of 8 slots ready, 12.0 MB in flight"
    assert link_text(3, 8, 12_000_000, 0) == "3 of 8 slots ready, 12.0 MB in flight"
    assert link_text(3, 8, 12_000_000, 5_000_000) == "3 of 8 slots ready, 12.0 MB in flight, 5.0 MB spilled"
