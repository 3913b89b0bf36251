from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from mtkd_dist.report.comparison_plot import COLOURS, draw, shown
from tests.comparisons import EDSR, GAINS, RLFN, SETS, comparison


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _has(path: Path, colour: str) -> bool:
    return bool((_pixels(path) == ImageColor.getrgb(colour)).all(axis=2).any())


def test_every_method_student_and_set_is_shown_against_scratch() -> None:
    marks = shown(comparison())
    assert {(one.method, one.student, one.test_set) for one in marks} == {
        (method, student, name) for method in ("mean", "mtkd") for student in (EDSR, RLFN) for name in SETS
    }
    assert {(one.baseline, one.metric) for one in marks} == {("scratch", "psnr_y")}


def test_each_student_has_a_colour_of_its_own(tmp_path: Path) -> None:
    path = draw(comparison(), tmp_path / "new folder" / "plot.png")
    assert path is not None
    assert [_has(path, colour) for colour in COLOURS[:3]] == [True, True, False]


def test_more_methods_make_a_higher_picture(tmp_path: Path) -> None:
    few, many = tmp_path / "few.png", tmp_path / "many.png"
    draw(comparison(), few)
    draw(comparison(tuple(GAINS)), many)
    assert _pixels(many).shape[0] > _pixels(few).shape[0]


def test_missing_students_leave_the_others_in_the_picture(tmp_path: Path) -> None:
    grid = comparison(without=[("mtkd", EDSR, seed) for seed in (1, 2, 3)])
    assert draw(grid, tmp_path / "plot.png") is not None
    assert len(shown(grid)) == 3 * len(SETS)


def test_one_seed_is_drawn_without_intervals(tmp_path: Path) -> None:
    assert draw(comparison(seeds=(1,)), tmp_path / "plot.png") is not None


def test_without_a_difference_there_is_no_picture(tmp_path: Path) -> None:
    assert draw(comparison(("mtkd",)), tmp_path / "plot.png") is None
    assert (
        draw(comparison(seeds=(1,), without=[("scratch", EDSR, 1), ("scratch", RLFN, 1)]), tmp_path / "x.png") is None
    )
    assert list(tmp_path.iterdir()) == []


def test_drawing_starts_no_user_interface(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    draw(comparison(), tmp_path / "plot.png")
    assert ("matplotlib.pyplot" in sys.modules) == before
