"""Files that were made with teachers know them, and are refused with others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mtkd_dist.config.load import ConfigError, load_config
from mtkd_dist.models import (
    aggregator_metadata,
    build_aggregator,
    build_network,
    check_student,
    load_aggregator,
    read_metadata,
    save_network,
    teachers_text,
)
from mtkd_dist.pools.teacher_worker import load_networks
from mtkd_dist.stages.check import check
from tests.nets import TINY, TINY_AGGREGATOR, make_aggregator, make_teacher

TEACHERS = {"a": "1" * 64, "b": "2" * 64}
CPU = torch.device("cpu")

REFUSED = [
    (TEACHERS, 3, "made for x2, expected x3; set scale 2, or make"),
    ({"b": "2" * 64, "a": "1" * 64}, 2, "made with teachers in the order a, b, expected b, a; give those"),
    ({"a": "1" * 64}, 2, "made with the teachers a, b, expected a; give those"),
    (TEACHERS | {"c": "3" * 64}, 2, "made with the teachers a, b, expected a, b, c; give those"),
    (
        TEACHERS | {"b": "4" * 64},
        2,
        "another file of the teacher 'b': SHA-256 222222222222, expected 444444444444 .* give that file",
    ),
]


@pytest.fixture
def aggregator(tmp_path: Path) -> Path:
    path = tmp_path / "aggregator.safetensors"
    save_network(path, build_aggregator(TINY_AGGREGATOR, 2, 2), aggregator_metadata(TINY_AGGREGATOR, 2, TEACHERS))
    return path


@pytest.fixture
def student(tmp_path: Path) -> Path:
    path = tmp_path / "student.safetensors"
    metadata = {"network": TINY, "scale": "2", "teachers": teachers_text(TEACHERS)}
    save_network(path, build_network(TINY, 2), metadata)
    return path


def test_an_aggregator_comes_back_frozen_and_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = TINY_AGGREGATOR + ",mean_skip=false"
    network = build_aggregator(text, 2, 2).eval()
    save_network(tmp_path / "a.safetensors", network, aggregator_metadata(text, 2, TEACHERS))
    loaded = load_aggregator(tmp_path / "a.safetensors", TEACHERS, 2)
    stack = torch.rand(1, 2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(stack), network(stack))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_an_aggregator_file_names_its_teachers_with_digests_in_order(aggregator: Path) -> None:
    assert list(json.loads(read_metadata(aggregator)["teachers"]).items()) == list(TEACHERS.items())


@pytest.mark.parametrize(("teachers", "scale", "said"), REFUSED)
def test_an_aggregator_is_refused_with_other_teachers(
    aggregator: Path, teachers: dict[str, str], scale: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        load_aggregator(aggregator, teachers, scale)
    assert "aggregator.safetensors: this aggregator was made" in str(caught.value)


@pytest.mark.parametrize(("teachers", "scale", "said"), REFUSED)
def test_a_student_is_refused_with_other_teachers(
    student: Path, teachers: dict[str, str], scale: int, said: str
) -> None:
    check_student(student, TEACHERS, 2)
    with pytest.raises(ValueError, match=said) as caught:
        check_student(student, teachers, scale)
    assert "student.safetensors: this student was made" in str(caught.value)


@pytest.mark.parametrize("teachers", [None, "no JSON", '["a", "b"]'])
def test_a_file_that_says_no_teachers_is_no_aggregator(tmp_path: Path, teachers: str | None) -> None:
    metadata = {"network": TINY_AGGREGATOR, "scale": "2"} | ({"teachers": teachers} if teachers else {})
    save_network(tmp_path / "x.safetensors", build_aggregator(TINY_AGGREGATOR, 2, 2), metadata)
    with pytest.raises(ValueError, match=r"x\.safetensors is no aggregator of mtkd-dist: its metadata .* lack one of"):
        load_aggregator(tmp_path / "x.safetensors", TEACHERS, 2)


def test_a_student_is_no_aggregator(student: Path) -> None:
    with pytest.raises(ValueError, match=r"student\.safetensors is no aggregator: .*unknown aggregator 'edsr-baseline"):
        load_aggregator(student, TEACHERS, 2)


def test_a_worker_refuses_an_aggregator_of_other_teacher_files(tmp_path: Path) -> None:
    teachers = tuple(make_teacher(tmp_path, name, seed=seed) for seed, name in enumerate("ab"))
    aggregator = make_aggregator(tmp_path, teachers)
    assert load_networks(teachers, aggregator, 2, CPU).aggregator is not None
    make_teacher(tmp_path, "b", seed=7)
    with pytest.raises(ValueError, match="another file of the teacher 'b'"):
        load_networks(teachers, aggregator, 2, CPU)


# --aggregator FILE


def flags(tmp_path: Path, aggregator: Path, *teachers: str) -> list[str]:
    return ["--teachers", *teachers, "--aggregator", str(aggregator), "--scale", "2", "--output", str(tmp_path / "run")]


def test_the_aggregator_of_these_very_teacher_files_passes_the_check(tmp_path: Path) -> None:
    a, b = (make_teacher(tmp_path, name) for name in "ab")
    check(load_config(flags(tmp_path, make_aggregator(tmp_path, (a, b)), str(a.path), f"{b.path}:name=b")))


def test_a_wrong_aggregator_file_is_refused_before_ray_starts(tmp_path: Path) -> None:
    a, b = (make_teacher(tmp_path, name, seed=seed) for seed, name in enumerate("ab"))
    aggregator = make_aggregator(tmp_path, (a, b))
    wrong = {
        "order a, b, expected b, a": (aggregator, str(b.path), str(a.path)),
        "another file of the teacher 'b'": (aggregator, str(a.path), f"{a.path}:name=b"),
        "cannot know the teacher 'edsr-baseline', which this run trains first": (aggregator, str(a.path), TINY),
        "is no aggregator": (a.path, str(a.path), str(b.path)),
        "does not exist.* Did you mean 'aggregator.safetensors'": (
            tmp_path / "agregator.safetensors",
            str(a.path),
            str(b.path),
        ),
    }
    for said, (file, *teachers) in wrong.items():
        with pytest.raises(ConfigError, match=f"aggregator: .*{said}"):
            check(load_config(flags(tmp_path, file, *teachers)))
