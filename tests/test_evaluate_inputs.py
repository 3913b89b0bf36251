"""What the evaluation command makes of its words: models, sets, scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtkd_dist.config.load import ConfigError
from mtkd_dist.data import ImageError, Photo, find_photos, read_image
from mtkd_dist.models import aggregator_metadata, build_aggregator, save_network
from mtkd_dist.pools.photo_workers import worker_count
from mtkd_dist.stages.models_to_score import read_models
from mtkd_dist.stages.photos_to_score import (
    PhotoFile,
    named_folders,
    photos_of,
    scale_of_data,
    scales_of_models,
)
from tests.nets import TINY_AGGREGATOR, make_teacher, write_photos


@pytest.fixture
def aggregator(tmp_path: Path) -> Path:
    path = tmp_path / "aggregator.safetensors"
    save_network(
        path,
        build_aggregator(TINY_AGGREGATOR, 2, 2),
        aggregator_metadata(TINY_AGGREGATOR, 2, {"a": "0" * 64, "b": "1" * 64}),
    )
    return path


def refused(words: list[str]) -> str:
    with pytest.raises(ConfigError) as error:
        read_models(words)
    return str(error.value)


# Models


def test_the_word_bicubic_is_no_file() -> None:
    assert read_models(["bicubic"]) == []


def test_a_network_without_weights_is_refused() -> None:
    assert "'edsr:width=32' is a network without weights" in refused(["edsr:width=32"])


def test_a_file_that_is_absent_is_named_with_what_was_meant(tmp_path: Path) -> None:
    make_teacher(tmp_path, "student")
    message = refused([str(tmp_path / "studnt.safetensors")])
    assert "studnt.safetensors" in message
    assert "Did you mean 'student.safetensors'?" in message
    assert "Did you mean 'bicubic'?" in refused(["bicubik"])


def test_the_folder_of_a_run_is_its_student_and_gives_it_its_name(tmp_path: Path) -> None:
    run = tmp_path / "run.v2"
    run.mkdir()
    student = make_teacher(run, "student").path
    (one, other) = read_models([str(run), f"{run}:name=B"])
    assert (one.model.name, one.file) == ("run.v2", str(student))
    assert (other.model.name, other.file) == ("B", str(student))


def test_a_folder_without_a_student_is_told_with_what_lies_in_it(tmp_path: Path) -> None:
    assert "there is no student.safetensors in this folder; expected a finished run" in refused([str(tmp_path)])
    first = make_teacher(tmp_path, "first").path
    assert f"it holds {first}: give that" in refused([str(tmp_path)])
    second = make_teacher(tmp_path, "second").path
    assert f"it holds {first}, {second}: give one of them" in refused([str(tmp_path)])


def test_two_models_of_one_name_are_told_how_to_be_named(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        make_teacher(tmp_path / folder, "student")
    one, two = (tmp_path / folder / "student.safetensors" for folder in ("one", "two"))
    message = refused([str(one), str(two)])
    assert f"two models are called 'student': {one} and {two}" in message
    assert f"{two}:name=OTHER" in message
    assert [c.model.name for c in read_models([str(one), f"{two}:name=B"])] == ["student", "B"]


def test_a_model_cannot_have_the_name_of_bicubic_or_of_a_self_ensemble(tmp_path: Path) -> None:
    path = make_teacher(tmp_path, "a").path
    assert "two models are called 'bicubic'" in refused([f"{path}:name=bicubic"])
    assert "self-ensemble of 'a'" in refused([f"{path}:name=a+", str(path)])


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    assert "torn.safetensors: not a readable" in refused([str(tmp_path / "torn.safetensors")])


def test_an_aggregator_without_its_teachers_says_whose_images_it_needs(tmp_path: Path, aggregator: Path) -> None:
    a = make_teacher(tmp_path, "a").path
    message = refused([f"{a}:name=first", str(aggregator)])
    for words in (str(aggregator), "an aggregator of a, b", "a, b are not given", "given: first", "FILE:name=NAME"):
        assert words in message
    assert "b is not given; given: a." in refused([str(a), str(aggregator)])


def test_the_teachers_of_an_aggregator_must_have_its_scale(tmp_path: Path, aggregator: Path) -> None:
    a, b = make_teacher(tmp_path, "a").path, make_teacher(tmp_path, "b", scale=3).path
    message = refused([str(a), str(b), str(aggregator)])
    for words in (str(aggregator), "x2", f"teacher b ({b}) enlarges 3 times"):
        assert words in message


def test_the_teachers_of_an_aggregator_must_be_the_files_it_was_trained_with(tmp_path: Path, aggregator: Path) -> None:
    a, b = make_teacher(tmp_path, "a").path, make_teacher(tmp_path, "b").path
    message = refused([str(a), str(b), str(aggregator)])
    for words in (str(aggregator), "another file of the teacher 'a'", "000000000000"):
        assert words in message


def test_an_input_range_belongs_to_teachers_not_to_an_aggregator(aggregator: Path) -> None:
    assert "has no input_range" in refused([f"{aggregator}:input_range=255"])


# Scales


@pytest.mark.parametrize(
    ("of_models", "asked", "scales"),
    [
        ({"a": 4, "b": 2, "c": 4}, None, [2, 4]),
        ({"a": 3}, None, [3]),
        ({"a": 3}, 3, [3]),
        ({}, 8, [8]),
        ({}, None, []),
    ],
)
def test_models_know_their_scales_and_only_without_one_the_flag_is_needed(
    of_models: dict[str, int], asked: int | None, scales: list[int]
) -> None:
    assert scales_of_models(of_models, asked) == scales


def test_a_scale_that_contradicts_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--scale 4: b\.pth enlarges 2 times"):
        scales_of_models({"a.pth": 4, "b.pth": 2}, 4)


def test_data_with_lr_for_one_scale_tell_it() -> None:
    assert scale_of_data({"photos": (), "Set5": (4,), "Set14": (4,)}) == 4


@pytest.mark.parametrize(
    ("of_sets", "message"),
    [
        ({"photos": ()}, "the data says none; give --scale"),
        ({"photos": (), "Set5": (2, 4)}, r"several \(Set5: x2, x4\); give --scale"),
        ({"A": (2,), "B": (4,)}, r"several \(A: x2; B: x4\); give --scale"),
    ],
)
def test_data_without_one_scale_ask_for_the_flag(of_sets: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scale_of_data(of_sets)


# Photographs


def test_a_folder_with_hr_and_lr_tells_its_photographs_and_scales(tmp_path: Path) -> None:
    hr = write_photos(tmp_path / "Set2" / "HR", 2)
    write_photos(tmp_path / "Set2" / "LR_bicubic" / "X4", 2)
    for entry in ("Set2", "Set2/HR"):
        folders = named_folders([str(tmp_path / entry)])
        assert list(folders) == ["Set2"]
        found = find_photos(folders["Set2"])
        assert found.scales == (4,)
        assert [photo.hr for photo in found.photos] == hr


def test_photographs_are_named_below_their_folder(tmp_path: Path) -> None:
    for part in ("cats", "dogs"):
        write_photos(tmp_path / part, 1)
    photos = photos_of({"animals": tmp_path}, [2, 3], ())
    assert [(p.set, p.name, p.scale) for p in photos] == [
        ("animals", f"{part}/00.png", scale) for scale in (2, 3) for part in ("cats", "dogs")
    ]


def test_lr_of_a_file_is_taken_as_it_is_and_must_have_the_size_of_hr(tmp_path: Path) -> None:
    (hr,) = write_photos(tmp_path / "HR", 1, side=33)
    (lr,) = write_photos(tmp_path / "LR", 1, side=16)
    name, read_lr, read_hr = PhotoFile("set", "x", Photo(str(hr), str(lr)), 2).read()
    assert name == "x"
    np.testing.assert_array_equal(read_lr, read_image(lr))
    np.testing.assert_array_equal(read_hr, read_image(hr)[:32, :32])
    with pytest.raises(ImageError, match=r"00\.png: 16x16 pixels.*33x33.*11x11 for x3"):
        PhotoFile("set", "x", Photo(str(hr), str(lr)), 3).read()


def test_perceptual_metrics_need_larger_photographs(tmp_path: Path) -> None:
    Image.new("RGB", (23, 23)).save(tmp_path / "a.png")
    assert len(photos_of({"set": tmp_path}, [4], ("rgb",))) == 1
    with pytest.raises(ImageError, match=r"a\.png: 23x23 pixels.* at least 24x24"):
        photos_of({"set": tmp_path}, [4], ("dists",))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["A/photos", "B/photos"], r"two sets are called 'photos'.*NAME="),
        (["A/fotos"], "'.*fotos' does not exist.*Did you mean 'photos'"),
    ],
)
def test_folders_that_make_no_sets_are_refused(entries: list[str], message: str, tmp_path: Path) -> None:
    for folder in ("A/photos", "B/photos"):
        write_photos(tmp_path / folder, 1)
    with pytest.raises(ConfigError, match=message):
        named_folders([str(tmp_path / entry) for entry in entries])


@pytest.mark.parametrize(
    ("photos", "devices", "asked", "workers"), [(24, 8, None, 8), (5, 8, None, 5), (5, 2, 4, 4), (1, 8, 4, 1)]
)
def test_there_are_as_many_workers_as_devices_or_asked_for_but_never_more_than_photographs(
    photos: int, devices: int, asked: int | None, workers: int
) -> None:
    assert worker_count(photos, devices, asked) == workers
