from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import Config, ImagesConfig
from mtkd_dist.stages.run import prepare_images, split_photos
from tests.nets import write_photos

DEMO = PRESETS["demo"]()


def config_for(folder: Path, **changes: object) -> Config:
    small = dataclasses.replace(DEMO.distil, patch=8)
    trainings = {"teacher_training": small, "aggregate": small, "distil": small}
    return dataclasses.replace(DEMO, **({"data": [str(folder)], "test": []} | trainings | changes))  # type: ignore[arg-type]


def test_the_demo_trains_on_other_photographs_than_it_scores_on() -> None:
    train, validation, sets = split_photos(DEMO)
    assert sets.keys() == {"demo"}
    assert not {*train, *validation} & set(sets["demo"])


def test_a_share_of_the_photographs_is_held_out_for_validation_and_scored_without_a_test_folder(tmp_path: Path) -> None:
    photos = write_photos(tmp_path, 20)
    train, validation, sets = split_photos(config_for(tmp_path, images=ImagesConfig(held_out=0.25)))
    assert len(validation) == 5
    assert sorted(train + validation) == sorted(photos)
    assert sets == {"held-out": validation}


def test_validation_is_never_a_test_set(tmp_path: Path) -> None:
    write_photos(tmp_path, 20)
    _, validation, sets = split_photos(config_for(tmp_path, test=["demo"]))
    assert validation
    assert not set(validation) & set(sets["demo"])


def test_what_is_held_out_stays_so_when_photographs_are_added(tmp_path: Path) -> None:
    write_photos(tmp_path, 10)
    before = split_photos(config_for(tmp_path)).validation
    write_photos(tmp_path, 11)
    after = split_photos(config_for(tmp_path)).validation
    assert len({*before, *after}) <= len(after) + 1


def test_a_single_photograph_leaves_none_to_train_on(tmp_path: Path) -> None:
    write_photos(tmp_path, 1)
    with pytest.raises(ValueError, match=r"1 photograph.*--test"):
        split_photos(config_for(tmp_path))


def test_a_photograph_in_both_data_and_test_is_refused(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    with pytest.raises(ValueError, match=r"3 photograph.*also in data"):
        split_photos(config_for(tmp_path, test=[str(tmp_path)]))


def test_a_photograph_smaller_than_a_patch_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 4, side=32)
    (small,) = write_photos(tmp_path / "small", 1, side=12)
    small.rename(tmp_path / "photos" / "small.png")
    config = config_for(tmp_path / "photos", test=["demo"], images=ImagesConfig(held_out=0))
    with pytest.raises(ValueError, match=r"small\.png.*12x12"):
        prepare_images(config, tmp_path / "out", lambda text: None)
    said: list[str] = []
    skipping = dataclasses.replace(config, images=ImagesConfig(on_bad="skip", held_out=0))
    train, _, _ = prepare_images(skipping, tmp_path / "out", said.append)
    assert len(train) == 4
    assert any("1 left out" in line and "small.png" in line for line in said)
