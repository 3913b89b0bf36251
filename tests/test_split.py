"""The choice of a split and of nodes: pure, so every possible split can be looked at."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.pools.split import (
    Costs,
    Devices,
    Split,
    Step,
    best,
    cached_forecast,
    forecast,
    place,
    possible_splits,
)

seconds = st.floats(1e-6, 10)
all_costs = st.builds(
    Costs,
    teacher=seconds,
    student_step=seconds,
    student_image=seconds,
    read=st.floats(1e-6, 0.1),
    cut=st.floats(1e-6, 0.1),
    teachers=st.dictionaries(st.sampled_from("abc"), seconds, min_size=1),
    aggregator=st.floats(0, 10),
    serial=st.floats(0, 1),
    patch=st.integers(8, 96),
)
some_devices = st.builds(Devices, count=st.integers(1, 24), kind=st.sampled_from(["GPU", "CPU"]))
steps = st.builds(lambda slots, size: Step(slots * size, slots), st.integers(1, 24), st.integers(1, 4))


def costs(teacher: float, student: float, **more: float) -> Costs:
    """Seconds per image of either pool."""
    return Costs(teacher, 0.0, student, read=1e-6, cut=1e-6, teachers={"a": teacher}, aggregator=0.0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("teacher", "student", "devices", "slots", "chosen"),
    [
        (3.0, 1.0, Devices(8, "GPU"), 8, Split(6, 2)),
        (1.0, 1.0, Devices(8, "GPU"), 8, Split(4, 4)),
        (1.0, 9.0, Devices(8, "GPU"), 8, Split(4, 4)),  # 8 students would leave no teacher
        (1.0, 9.0, Devices(8, "GPU"), 7, Split(1, 7)),
        (50.0, 1.0, Devices(8, "GPU"), 8, Split(7, 1)),
        (1.0, 1.0, Devices(2, "GPU"), 4, Split(1, 1)),
        (1.0, 1.0, Devices(1, "GPU"), 4, Split(1, 1, shared=True)),
        (3.0, 1.0, Devices(8, "CPU"), 8, Split(6, 1, threads=2)),
        (9.0, 1.0, Devices(2, "CPU"), 8, Split(1, 1)),
    ],
)
def test_the_fastest_split_is_chosen(
    teacher: float, student: float, devices: Devices, slots: int, chosen: Split
) -> None:
    step = Step(2 * slots, slots)
    measured = costs(teacher, student, serial=0.0)
    assert best([forecast(measured, split, step) for split in possible_splits(devices, step)]).split == chosen


@given(all_costs, some_devices, steps)
def test_no_split_whatsoever_is_faster_than_the_chosen_one(costs: Costs, devices: Devices, step: Step) -> None:
    chosen = best([forecast(costs, split, step) for split in possible_splits(devices, step)])
    if devices.count == 1:
        return
    for teachers, students in itertools.product(range(1, devices.count), repeat=2):
        if teachers + students > devices.count or step.slots % students:
            continue
        threads = (devices.count - teachers) // students if devices.kind == "CPU" else 1
        other = forecast(costs, Split(teachers, students, threads), step)
        assert other.images_per_second <= chosen.images_per_second


@given(some_devices, steps)
def test_no_split_uses_more_than_there_is_or_cuts_a_slot(devices: Devices, step: Step) -> None:
    splits = possible_splits(devices, step)
    assert splits
    for split in splits:
        assert split.shared == (devices.count == 1)
        assert step.slots % split.students == 0
        assert split.shared or split.teachers + split.students * split.threads <= devices.count


@given(all_costs, some_devices, steps, st.sampled_from(["teacher", "student_step", "student_image", "read"]))
def test_slower_work_never_makes_a_faster_run(costs: Costs, devices: Devices, step: Step, which: str) -> None:
    def fastest(costs: Costs) -> float:
        return best([forecast(costs, s, step) for s in possible_splits(devices, step)]).images_per_second

    slower = dataclasses.replace(costs, **{which: 2 * getattr(costs, which)})
    assert fastest(slower) <= fastest(costs)


@given(all_costs, steps)
def test_a_shared_device_does_the_work_of_both_pools_in_turns(costs: Costs, step: Step) -> None:
    alone = forecast(costs, Split(1, 1), step)
    (shared,) = possible_splits(Devices(1, "GPU"), step)
    seconds_per_image = costs.teacher + costs.step_seconds(step.batch_size) / step.batch_size
    assert forecast(costs, shared, step).images_per_second == pytest.approx(1 / seconds_per_image)
    assert alone.limit == "link" or forecast(costs, shared, step).images_per_second < alone.images_per_second


def test_numbers_that_are_fixed_stay() -> None:
    step = Step(16, 8)
    assert possible_splits(Devices(8, "GPU"), step, teachers=3) == [Split(3, s) for s in (1, 2, 4)]
    assert possible_splits(Devices(8, "GPU"), step, students=4) == [Split(4, 4)]
    assert possible_splits(Devices(4, "CPU"), step, teachers=2, students=1) == [Split(2, 1, threads=2)]


@given(all_costs, some_devices, steps, st.integers(1, 10**9))
def test_cached_answers_cost_a_rendering_and_leave_every_device_to_the_students(
    costs: Costs, devices: Devices, step: Step, pixels: int
) -> None:
    cached = cached_forecast(costs, devices, step, pixels)
    assert cached.split.teachers == 0
    assert cached.split.students * cached.split.threads <= devices.count
    assert cached.before_seconds == pytest.approx(pixels * costs.render_pixel / devices.count)
    assert cached.stage_seconds(1000) > cached.before_seconds


@given(all_costs, some_devices, steps, st.integers(1, 10**9))
def test_a_frozen_aggregator_is_rendered_once_and_no_part_of_a_cached_step(
    costs: Costs, devices: Devices, step: Step, pixels: int
) -> None:
    without = cached_forecast(dataclasses.replace(costs, aggregator=0.0), devices, step, pixels)
    with_it = cached_forecast(costs, devices, step, pixels)
    assert with_it.images_per_second == without.images_per_second
    aggregates = pixels * costs.aggregator / costs.patch**2 / devices.count
    assert with_it.before_seconds == pytest.approx(without.before_seconds + aggregates)


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 8), max_size=6),
    st.integers(0, 20),
    st.integers(1, 20),
    st.integers(1, 3),
)
def test_students_lie_on_as_few_nodes_as_can_hold_them(
    free: dict[str, int], teachers: int, students: int, size: int
) -> None:
    placement = place(free, teachers, students, size)
    rooms = sorted((count // size for count in free.values()), reverse=True)
    if placement is None:
        assert sum(rooms) < students or sum(free.values()) < teachers + students * size
        return
    assert (len(placement.teachers), len(placement.students)) == (teachers, students)
    for node in free:
        assert placement.teachers.count(node) + size * placement.students.count(node) <= free[node]
    fewest = next(count for count in range(1, len(rooms) + 1) if sum(rooms[:count]) >= students)
    assert len(set(placement.students)) == fewest


def test_teachers_fill_the_nodes_without_students_first() -> None:
    placement = place({"a": 4, "b": 4}, 6, 2)
    assert placement is not None
    assert placement.students == ["a", "a"]
    assert placement.teachers == ["b"] * 4 + ["a"] * 2
