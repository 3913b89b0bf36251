"""Which part of a photograph, and which photographs, are worth looking at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from mtkd_dist.metrics import Window, most_different
from mtkd_dist.pools.detail import detail_of
from mtkd_dist.pools.evaluate import Scored
from mtkd_dist.stages.details import INDEX, most_different_photos, remove_details, write_details
from mtkd_dist.stages.scores import band_rows

GREY = np.full((48, 64, 3), 100, np.uint8)


def with_patch(top: int, left: int, value: int = 160) -> np.ndarray:
    image = GREY.copy()
    image[top : top + 4, left : left + 4] = value
    return image


def test_the_window_lies_where_one_image_differs() -> None:
    window = most_different([GREY, GREY, with_patch(30, 40)], side=16, step=2)
    assert window.top <= 30 <= window.top + 12
    assert window.left <= 40 <= window.left + 12
    # One of three differs by 60 in 16 of 256 pixels.
    assert window.disagreement == pytest.approx((60**2 * 2 / 9 / 16) ** 0.5)


def test_of_two_places_the_one_with_the_larger_difference_is_taken() -> None:
    image = with_patch(4, 4, value=130)
    image[36:40, 50:54] = 140
    window = most_different([GREY, image], side=8, step=2)
    assert (window.top > 24, window.left > 40) == (True, True)


def test_images_that_do_not_differ_are_shown_in_the_middle() -> None:
    assert most_different([GREY, GREY], side=16, step=2) == Window(16, 24, 16, 0.0)


def test_what_happens_at_the_edge_of_an_image_counts_for_nothing() -> None:
    image = with_patch(20, 30, value=110)
    image[:2] = image[-2:] = image[:, :2] = image[:, -2:] = 255
    window = most_different([GREY, image], side=8, step=2)
    assert 16 <= window.top <= 20
    assert 26 <= window.left <= 30


def test_a_photograph_smaller_than_the_window_is_shown_whole() -> None:
    window = most_different([GREY, with_patch(20, 30)], side=144, step=2)
    assert (window.top, window.left) == (0, 0)
    assert window.of(GREY).shape == GREY.shape
    wide = most_different([GREY, with_patch(20, 50)], side=56, step=2)
    assert (wide.top, wide.left, wide.of(GREY).shape) == (0, 4, (48, 56, 3))


@given(arrays(np.uint8, (2, 12, 16, 3)), st.sampled_from([2, 4]))
def test_no_other_window_differs_more_and_all_begin_at_pixels_of_lr(images: np.ndarray, step: int) -> None:
    window = most_different(list(images), side=8, step=step)
    assert (window.top % step, window.left % step) == (0, 0)
    variance = images.astype(float).var(axis=0).sum(axis=2)
    inside = np.zeros_like(variance)
    inside[step:-step, step:-step] = variance[step:-step, step:-step]

    def differs(top: int, left: int) -> float:
        return float(inside[top : top + 8, left : left + 8].sum())

    most = max(differs(top, left) for top in range(0, 5, step) for left in range(0, 9, step))
    assert differs(window.top, window.left) == pytest.approx(most)
    assert window.disagreement == pytest.approx((most / (64 * 3)) ** 0.5)


def test_lr_and_all_models_show_the_same_part() -> None:
    lr = np.arange(24 * 32 * 3, dtype=np.uint32).reshape(24, 32, 3).astype(np.uint8)
    hr = lr.repeat(2, axis=0).repeat(2, axis=1)
    other = hr.copy()
    other[30:34, 40:44] ^= 255
    detail = detail_of(lr, {"bicubic": hr ^ 255, "a": hr, "b": other}, hr, side=16)
    assert list(detail.panels) == ["LR", "bicubic", "a", "b", "HR"]
    np.testing.assert_array_equal(detail.panels["LR"].repeat(2, axis=0).repeat(2, axis=1), detail.panels["HR"])
    np.testing.assert_array_equal(detail.panels["a"], detail.panels["HR"])
    assert not np.array_equal(detail.panels["b"], detail.panels["HR"])
    assert (detail.height, detail.width) == (48, 64)
    assert detail.whole.shape == hr.shape  # nothing is enlarged


def test_bicubic_has_a_say_only_where_one_model_alone_is_beside_it() -> None:
    bicubic = with_patch(6, 6, value=255)
    lr = GREY[::2, ::2]
    beside_one = detail_of(lr, {"bicubic": bicubic, "a": GREY}, GREY, side=8).window
    beside_two = detail_of(lr, {"bicubic": bicubic, "a": GREY, "b": with_patch(40, 50)}, GREY, side=8).window
    assert beside_one.top < 10
    assert beside_two.top > 30


def scored(name: str, disagreement: float, of_set: str = "Set") -> Scored:
    """As it comes from a worker: the models differ by so much."""
    lr, images = GREY[::2, ::2], {"a": GREY, "b": GREY}
    detail = detail_of(lr, images, GREY, side=8)
    detail = detail._replace(window=detail.window._replace(disagreement=disagreement))
    return Scored(of_set, name, 2, {"a": {"psnr_y": 30.0}}, {"a": {"LL3": disagreement, "HH1": 1.0}}, detail)


def shown(photos: list[Scored]) -> set[str]:
    return {photo.image for photo in photos if photo.detail is not None}


def test_of_a_single_set_six_photographs_are_shown() -> None:
    photos = most_different_photos([scored(str(n), float(n * 7 % 10)) for n in range(10)], sets=1)
    assert [photo.image for photo in photos] == [str(n) for n in range(10)]
    assert shown(photos) == {str(n) for n in range(10) if n * 7 % 10 >= 4}


def test_of_many_sets_two_each_and_of_equal_ones_the_first() -> None:
    photos = [scored(f"{name}{n}", 1.0, of_set=name) for name in "abcd" for n in range(3)]
    assert shown(most_different_photos(photos, sets=4)) == {f"{name}{n}" for name in "abcd" for n in range(2)}


def test_details_are_files_of_their_own_that_an_index_names_the_most_different_first(tmp_path: Path) -> None:
    photos = [scored("a/x.png", 1.0), scored("b/x.png", 2.0), scored("y.png", 3.0)._replace(detail=None)]
    written = write_details(tmp_path, photos)
    index = json.loads((tmp_path / INDEX).read_text())
    assert [(entry["image"], entry["name"]) for entry in index] == [("b/x.png", "Set-x"), ("a/x.png", "Set-x-2")]
    assert {path.relative_to(tmp_path).as_posix() for path in written} == {INDEX} | {
        file for entry in index for file in (entry["whole"], *entry["panels"].values(), f"samples/{entry['name']}.png")
    }
    with Image.open(tmp_path / index[0]["panels"]["HR"]) as hr:
        assert hr.size == (8, 8)


def test_the_pictures_of_an_earlier_evaluation_go_and_nothing_else_does(tmp_path: Path) -> None:
    written = [path.relative_to(tmp_path).as_posix() for path in write_details(tmp_path, [scored("x.png", 1.0)])]
    mine = tmp_path / "samples" / "mine.png"
    mine.touch()
    remove_details(tmp_path, [*written, "samples/gone.png", "student.safetensors"])
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [tmp_path / INDEX, mine]


def test_spectra_are_means_over_the_photographs_of_a_set() -> None:
    rows = band_rows([scored("x", 1.0), scored("y", 2.0), scored("z", 5.0, of_set="Other")])
    assert rows == [
        {"model": "a", "set": "Set", "scale": 2, "bands": {"LL3": 1.5, "HH1": 1.0}},
        {"model": "a", "set": "Other", "scale": 2, "bands": {"LL3": 5.0, "HH1": 1.0}},
    ]
