from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import Config, ImagesConfig
from mtkd_dist.data import ImageError, Photo
from mtkd_dist.stages.photos import Split, prepare_images, split_photos
from tests.nets import write_photos

DEMO = PRESETS["demo"]()


def config_for(folder: Path, **changes: object) -> Config:
    small = dataclasses.replace(DEMO.distil, patch=8)
    trainings = {"teacher_training": small, "aggregate": small, "distil": small}
    return dataclasses.replace(DEMO, **({"data": [str(folder)], "test": []} | trainings | changes))  # type: ignore[arg-type]


def split(config: Config, said: list[str] | None = None) -> Split:
    return split_photos(config, (said if said is not None else []).append)


def names(photos: list[Photo]) -> list[str]:
    return [photo.hr.name for photo in photos]


def div2k(folder: Path, train: int = 6, valid: int = 2) -> Path:
    write_photos(folder / "DIV2K" / "DIV2K_train_HR", train)
    for i, path in enumerate(write_photos(folder / "DIV2K" / "DIV2K_valid_HR", valid)):
        path.rename(path.with_name(f"08{i:02}.png"))
    return folder / "DIV2K"


def test_of_the_demo_no_scene_is_trained_on_and_also_watched_or_scored() -> None:
    train, validation, sets = split(DEMO)
    assert names(validation) == ["rocket.jpg"]
    assert {"motorcycle_left.png", "motorcycle_right.png"} <= set(names(train))
    assert sets.keys() == {"demo"}
    assert not {*train, *validation} & set(sets["demo"])


def test_a_share_of_the_photographs_is_held_out_for_validation_and_scored_without_a_test_folder(tmp_path: Path) -> None:
    photos = write_photos(tmp_path, 20)
    train, validation, sets = split(config_for(tmp_path, images=ImagesConfig(held_out=0.25)))
    assert len(validation) == 5
    assert sorted(photo.hr for photo in train + validation) == sorted(photos)
    assert sets == {"held-out": validation}


def test_photographs_need_no_room_for_patches_of_an_aggregator_that_is_given(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 4, side=32)
    large = dataclasses.replace(DEMO.aggregate, patch=64)
    config = config_for(tmp_path / "photos", aggregate=large)
    with pytest.raises(ValueError, match="32x32"):
        prepare_images(config, tmp_path / "out", lambda text: None)
    given = dataclasses.replace(config, aggregator="aggregator.safetensors")
    assert len(prepare_images(given, tmp_path / "out", lambda text: None).train) == 3


def test_validation_is_never_a_test_set(tmp_path: Path) -> None:
    write_photos(tmp_path, 20)
    _, validation, sets = split(config_for(tmp_path, test=["demo"]))
    assert validation
    assert not set(validation) & set(sets["demo"])


def test_what_is_held_out_stays_so_when_photographs_are_added(tmp_path: Path) -> None:
    write_photos(tmp_path, 10)
    before = split(config_for(tmp_path)).validation
    write_photos(tmp_path, 11)
    after = split(config_for(tmp_path)).validation
    assert len({*before, *after}) <= len(after) + 1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
def test_sub_images_of_one_photograph_are_held_out_together(tmp_path: Path, share: float) -> None:
    for i, path in enumerate(write_photos(tmp_path, 24, side=16)):
        path.rename(tmp_path / f"{i // 4:04}_s{i % 4 + 1:03}.png")
    train, validation, _ = split(config_for(tmp_path, images=ImagesConfig(held_out=share)))
    assert len(validation) >= share * 24
    assert not {name[:4] for name in names(train)} & {name[:4] for name in names(validation)}


def test_a_data_set_is_validated_by_the_part_that_it_brings_and_trained_on_whole(tmp_path: Path) -> None:
    train, validation, _ = split(config_for(div2k(tmp_path)))
    assert (len(train), names(validation)) == (6, ["0800.png", "0801.png"])


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [(["01.png"], ["01.png"]), (["lake/*", "0[23]*"], ["02.png", "03.png", "00.png", "01.png"])],
)
def test_photographs_are_put_aside_by_name_or_by_their_path_below_the_folder(
    tmp_path: Path, patterns: list[str], expected: list[str]
) -> None:
    write_photos(tmp_path, 5)
    for path in write_photos(tmp_path / "lake", 2):
        if "lake/*" not in patterns:
            path.unlink()
    train, validation, _ = split(config_for(tmp_path, images=ImagesConfig(held_out_names=patterns)))
    assert names(validation) == expected
    assert not set(train) & set(validation)


def test_names_win_over_the_validation_part_of_a_data_set(tmp_path: Path) -> None:
    folder = div2k(tmp_path)
    config = config_for(folder, test=[str(folder / "DIV2K_valid_HR")], images=ImagesConfig(held_out_names=["05*"]))
    train, validation, sets = split(config)
    assert (len(train), names(validation), names(sets["DIV2K_valid_HR"])) == (5, ["05.png"], ["0800.png", "0801.png"])


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    config = config_for(tmp_path, images=ImagesConfig(held_out_names=["00*", "02.jpg"]))
    with pytest.raises(ValueError, match=r"images\.held_out_names: '02\.jpg' matches no .* Did you mean '02\.png'"):
        split(config)


def test_patterns_that_leave_nothing_to_train_on_are_refused(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    with pytest.raises(ValueError, match=r"images\.held_out_names.* leave none to train on"):
        split(config_for(tmp_path, images=ImagesConfig(held_out_names=["*"])))


def test_a_single_photograph_leaves_none_to_train_on(tmp_path: Path) -> None:
    write_photos(tmp_path, 1)
    with pytest.raises(ValueError, match=r"1 photograph.*--test"):
        split(config_for(tmp_path))


def test_a_photograph_in_both_data_and_test_is_refused(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    with pytest.raises(ValueError, match=r"test: 3 photograph.*also in data"):
        split(config_for(tmp_path, test=[str(tmp_path)]))


@pytest.mark.parametrize("link", ["folder", "file"])
def test_a_link_does_not_hide_that_a_test_photograph_is_trained_on(tmp_path: Path, link: str) -> None:
    (scored,) = write_photos(tmp_path / "test", 1)
    write_photos(tmp_path / "data", 3)
    if link == "folder":
        (tmp_path / "data" / "more").symlink_to(tmp_path / "test")
    else:
        (tmp_path / "data" / "other-name.png").symlink_to(scored)
    with pytest.raises(ValueError, match=r"test: 1 photograph.*also in data.*00\.png"):
        split(config_for(tmp_path / "data", test=[str(tmp_path / "test")]))


def test_a_validation_part_that_is_scored_is_not_watched_by_but_a_share_of_the_others(tmp_path: Path) -> None:
    folder, said = div2k(tmp_path), list[str]()
    train, validation, sets = split(config_for(folder, test=[str(folder / "DIV2K_valid_HR")]), said)
    assert names(sets["DIV2K_valid_HR"]) == ["0800.png", "0801.png"]
    assert (len(train), len(validation)) == (5, 1)
    assert not set(validation) & set(sets["DIV2K_valid_HR"])
    assert any("is among the test sets" in line for line in said)


def test_a_test_photograph_cannot_be_put_aside_by_name(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    config = config_for(tmp_path, test=[str(tmp_path / "01.png")], images=ImagesConfig(held_out_names=["01*"]))
    with pytest.raises(ValueError, match=r"test: 1 photograph.*01\.png.*images\.held_out_names"):
        split(config)


def test_a_bad_photograph_that_was_put_aside_is_told_and_no_reason_to_stop_when_bad_ones_are_left_out(
    tmp_path: Path,
) -> None:
    write_photos(tmp_path / "photos", 4)
    (tmp_path / "photos" / "01.png").write_bytes(b"torn")
    images = ImagesConfig(on_bad="skip", held_out_names=["01*"])
    config = config_for(tmp_path / "photos", test=["demo"], images=images)
    said: list[str] = []
    train, validation, _ = prepare_images(config, tmp_path / "out", said.append)
    assert (len(train), validation) == (3, None)
    assert any("01.png" in line and "no training is watched" in line for line in said)


def test_the_validation_part_of_a_data_set_cannot_be_trained_on_too(tmp_path: Path) -> None:
    folder = div2k(tmp_path)
    with pytest.raises(ValueError, match=r"data: 2 photograph.*trained on.*validated by.*DIV2K_valid_HR"):
        split(config_for(folder, data=[str(folder), str(folder / "DIV2K_valid_HR")]))


def test_every_folder_is_told_with_its_layout_and_where_lr_comes_from(tmp_path: Path) -> None:
    folder = div2k(tmp_path)
    write_photos(tmp_path / "photos", 4)
    for path in write_photos(tmp_path / "Set5" / "HR", 2):
        (tmp_path / "Set5" / "LR_bicubic" / "X3").mkdir(parents=True, exist_ok=True)
        path.with_name("a").write_bytes(path.read_bytes())
        path.with_name("a").rename(tmp_path / "Set5" / "LR_bicubic" / "X3" / f"{path.stem}x3.png")
    said: list[str] = []
    config = config_for(folder, data=[str(folder), str(tmp_path / "photos")], test=[str(tmp_path / "Set5")], scale=3)
    split(config, said)
    split(dataclasses.replace(config, scale=2), said)
    told = [line.replace(str(tmp_path) + "/", "") for line in said]
    assert told == [
        "images  DIV2K: DIV2K, 6 photographs, x3 LR made; 2 more to validate by",
        "images  photos: photographs, 4 photographs, x3 LR made",
        "images  Set5: HR with LR_bicubic/X3, 2 photographs, x3 LR read",
        "images  DIV2K: DIV2K, 6 photographs, x2 LR made; 2 more to validate by",
        "images  photos: photographs, 4 photographs, x2 LR made",
        "images  Set5: HR, 2 photographs, x2 LR made (there is LR for x3)",
    ]


def test_lr_of_another_scale_than_the_run_is_named_with_the_scale_that_it_has(tmp_path: Path) -> None:
    hr = write_photos(tmp_path / "HR", 3, side=64)
    write_photos(tmp_path / "X4", len(hr), side=32)
    config = config_for(tmp_path, scale=4, images=ImagesConfig(held_out=0), test=["demo"])
    with pytest.raises(ImageError, match=r"X4/00\.png: 32x32.*HR/00\.png has 64x64.*16x16 for x4.*belong to x2"):
        prepare_images(config, tmp_path / "out", lambda text: None)


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
