from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtkd_dist.stages.teacher_spec import TeacherSpec, parse_teacher, parse_teachers


def test_a_file_is_named_after_its_stem() -> None:
    assert parse_teacher("weights/DCTLSA_x4.pt") == TeacherSpec("DCTLSA_x4", path=Path("weights/DCTLSA_x4.pt"))


def test_a_file_takes_a_name_and_an_input_range() -> None:
    assert parse_teacher("a.pth:name=A,input_range=255") == TeacherSpec("A", path=Path("a.pth"), input_range=255)


def test_a_network_takes_a_name_beside_its_sizes() -> None:
    assert parse_teacher("edsr-baseline:name=A,width=32") == TeacherSpec("A", network="edsr-baseline:width=32")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.pth:input_rnage=255", ["input_rnage", "input_range"]),
        ("a.pth:input_range=bright", ["bright", "1 or 255"]),
        ("a.pth:input_range=-1", ["-1", "above 0"]),
        ("edsr:widht=3", ["widht", "width"]),
        ("edsr:width=many", ["width=many"]),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        parse_teacher(text)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    "text", ["runs/a/student.safetensors", "a.pth:name=bicubic", "a.pth:name=../x", "edsr:name=.x"]
)
def test_a_name_that_would_hide_another_row_or_leave_the_folder_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot be called.*name=OTHER"):
        parse_teachers([text])


def test_two_teachers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="name=OTHER"):
        parse_teachers(["edsr", "edsr:width=32"])
