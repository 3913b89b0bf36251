"""What a comparison consists of, and how each of its cells is configured."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.compare.load import base_config
from mtkd_dist.compare.tree import METHODS, PRESETS, CompareConfig
from mtkd_dist.compare.work import Work, config_of, config_of_method, slug, works_of
from mtkd_dist.config.tree import MethodName
from mtkd_dist.stages.check import check_settings
from mtkd_dist.stages.check_method import needs_networks
from mtkd_dist.stages.distil_method import settings_unused

STUDENTS = ("edsr-baseline:width=8,blocks=1", "rcan:groups=1,blocks=1,width=8", "swinir-light")
DEMO = PRESETS["demo"]
BASE = base_config(DEMO)


@given(
    methods=st.lists(st.sampled_from(METHODS), min_size=1, unique=True),
    students=st.lists(st.sampled_from(STUDENTS), min_size=1, unique=True),
    seeds=st.lists(st.integers(0, 9), min_size=1, unique=True),
)
def test_every_cell_is_trained_once(methods: list[MethodName], students: list[str], seeds: list[int]) -> None:
    works = works_of(CompareConfig(methods=methods, students=students, seeds=seeds), BASE)
    trained = [(work.method, student, work.seed) for work in works for student in work.students]
    assert sorted(trained) == sorted((m, student, seed) for m in methods for student in students for seed in seeds)
    assert len({work.folder for work in works}) == len(works)


@pytest.mark.parametrize("method", METHODS)
def test_students_share_a_stream_where_the_teachers_must_answer_live(method: MethodName) -> None:
    works = works_of(CompareConfig(methods=[method], students=list(STUDENTS), seeds=[0]), BASE)
    together = method in ("at", "fakd", "dukd", "crosskd")
    assert [work.students for work in works] == (
        [tuple(sorted(STUDENTS))] if together else [(student,) for student in STUDENTS]
    )
    assert needs_networks(config_of_method(BASE, method)) == together


@pytest.mark.parametrize("method", METHODS)
def test_settings_that_only_other_methods_have_are_left_out(method: MethodName) -> None:
    loss = dataclasses.replace(BASE.loss, l1_weight=0.3, levels=2, teacher_weights=[1.0, 2.0, 3.0])
    fakd = dataclasses.replace(BASE.fakd, affinity_weight=3.0)
    config = config_of_method(dataclasses.replace(BASE, loss=loss, fakd=fakd), method)
    check_settings(config)
    assert all(value == default for value, default in settings_unused(config).values())
    assert config.loss.l1_weight == (0.3 if method in ("mtkd", "mean") else 0.1)
    assert config.fakd.affinity_weight == (3.0 if method == "fakd" else 10.0)


def test_cells_of_one_seed_differ_by_method_and_student_alone() -> None:
    one, other = (config_of(BASE, Work(method, (STUDENTS[0],), 3)) for method in ("mtkd", "mean"))
    assert (one.student, one.seed, one.teachers) == (STUDENTS[0], 3, BASE.teachers)
    left_out = {"method": "mean", "aggregator": other.aggregator}
    assert dataclasses.replace(one, **left_out) == other  # type: ignore[arg-type]


def test_scratch_has_no_teachers() -> None:
    assert config_of(BASE, Work("scratch", (STUDENTS[0],), 0)).teachers == []


def test_the_name_of_a_folder_tells_networks_apart() -> None:
    networks = ["rcan:groups=2,blocks=3", "rcan:groups=2,blocks=31", "rcan:groups=2", "rcan"]
    assert [slug(network) for network in networks[:1]] == ["rcan-groups=2-blocks=3"]
    assert len({slug(network) for network in networks}) == len(networks)


def test_the_order_of_students_makes_no_other_stream() -> None:
    one, other = (
        works_of(CompareConfig(methods=["at"], students=list(students), seeds=[0]), BASE)
        for students in (STUDENTS, STUDENTS[::-1])
    )
    assert one == other


def test_all_methods_with_teachers_are_streams_where_they_answer_live() -> None:
    live = dataclasses.replace(BASE, teacher_outputs="live")
    works = works_of(CompareConfig(students=list(STUDENTS), seeds=[0]), live)
    assert {work.method for work in works if len(work.students) == 1} == {"scratch"}
