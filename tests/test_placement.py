from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.pools.placement import LayoutError, Resources, plan_layout


@pytest.mark.parametrize(
    ("gpus", "asked", "teachers", "students"),
    [
        (8, {}, 6, 2),
        (4, {}, 3, 1),
        (2, {}, 1, 1),
        (8, {"num_gpus": 4}, 3, 1),
        (8, {"teacher_gpus": 4}, 4, 4),
        (8, {"student_gpus": 4}, 4, 4),
        (8, {"teacher_gpus": 5, "student_gpus": 2}, 5, 2),
    ],
)
def test_gpus_are_split_between_the_pools(gpus: int, asked: dict[str, int], teachers: int, students: int) -> None:
    layout = plan_layout(Resources(cpus=16, gpus=gpus), needs_teachers=True, slots_per_step=4, **asked)
    assert layout.teachers is not None
    assert (layout.teachers.workers, layout.students.workers) == (teachers, students)
    assert (layout.teachers.gpus, layout.students.gpus) == (1, 1)


def test_one_gpu_is_shared_by_halves() -> None:
    layout = plan_layout(Resources(cpus=8, gpus=1), needs_teachers=True, slots_per_step=4)
    assert layout.teachers is not None
    assert (layout.teachers.gpus, layout.students.gpus) == (0.5, 0.5)


def test_without_a_gpu_both_pools_are_cpu_workers() -> None:
    layout = plan_layout(Resources(cpus=2, gpus=0), needs_teachers=True, slots_per_step=4)
    assert layout.teachers is not None
    assert (layout.teachers.workers, layout.teachers.cpus, layout.teachers.gpus) == (1, 1, 0)
    assert (layout.students.workers, layout.students.cpus, layout.students.gpus) == (1, 1, 0)


def test_one_core_is_shared() -> None:
    layout = plan_layout(Resources(cpus=1, gpus=0), needs_teachers=True, slots_per_step=4)
    assert layout.teachers is not None
    assert layout.teachers.cpus + layout.students.cpus <= 1
    assert layout.students.threads == 1


def test_a_method_without_teachers_gives_every_device_to_the_students() -> None:
    layout = plan_layout(Resources(cpus=8, gpus=4), needs_teachers=False, slots_per_step=4)
    assert layout.teachers is None
    assert layout.students.workers == 4


@pytest.mark.parametrize(
    ("resources", "asked", "words"),
    [
        (Resources(4, 2), {"num_gpus": 8}, ["--num-gpus 8", "2 GPUs", "4 CPUs"]),
        (Resources(16, 8), {"teacher_gpus": 8}, ["--teacher-gpus 8", "8 GPUs"]),
        (Resources(16, 8), {"teacher_gpus": 6, "student_gpus": 4}, ["6", "4", "8 GPUs"]),
        (Resources(16, 8), {"student_gpus": 3}, ["3 student workers", "4 slots", "link.slot_size"]),
        (Resources(2, 0), {"teacher_gpus": 1}, ["no GPU", "--cluster.teacher-workers"]),
        (Resources(2, 0), {"teacher_workers": 4}, ["4 teacher", "2"]),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_there_and_the_remedy(
    resources: Resources, asked: dict[str, int], words: list[str]
) -> None:
    with pytest.raises(LayoutError) as error:
        plan_layout(resources, needs_teachers=True, slots_per_step=4, **asked)
    for word in words:
        assert word in str(error.value)


@given(
    cpus=st.integers(1, 64),
    gpus=st.integers(0, 64),
    needs_teachers=st.booleans(),
    slots=st.integers(1, 64),
)
def test_a_default_split_always_fits_the_cluster_and_divides_the_step(
    cpus: int, gpus: int, needs_teachers: bool, slots: int
) -> None:
    layout = plan_layout(Resources(cpus, gpus), needs_teachers=needs_teachers, slots_per_step=slots)
    pools = [layout.students] + ([layout.teachers] if layout.teachers else [])
    assert (layout.teachers is not None) == needs_teachers
    assert sum(pool.workers * pool.gpus for pool in pools) <= gpus
    assert sum(pool.workers * pool.cpus for pool in pools) <= cpus + 1e-9
    assert slots % layout.students.workers == 0
