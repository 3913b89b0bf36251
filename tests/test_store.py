from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mtkd_dist.data import ImageError, ImageStore, Photo, Sample, build_store, matlab_downscale, pairs, store

SIZES = [(30, 41), (24, 36), (25, 52)]


def write_photos(folder: Path, seed: int = 0, sizes: list[tuple[int, int]] = SIZES) -> list[Path]:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(len(sizes))]
    for path, (height, width) in zip(paths, sizes, strict=True):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return paths


def build(files: list[Path], scale: int, folder: Path, **options: Any) -> ImageStore:
    return build_store([Photo(str(file)) for file in files], scale, folder, **options)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return write_photos(tmp_path / "photos")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    folder = tmp_path_factory.mktemp("built")
    return build(write_photos(folder / "photos"), 4, folder / "store")


def decodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The photographs that the store decodes from here on."""
    seen: list[Path] = []
    read = pairs.read_image

    def read_and_note(path: Path) -> np.ndarray:
        seen.append(path)
        return read(path)

    monkeypatch.setattr(pairs, "read_image", read_and_note)
    return seen


def test_images_come_back_cropped_to_the_scale_and_shrunk(photos: list[Path], tmp_path: Path) -> None:
    built = build(photos, 4, tmp_path / "store")
    assert (len(built), built.scale, built.names, built.skipped) == (3, 4, ["0.png", "1.png", "2.png"], [])
    assert built.lr_sizes == [(7, 10), (6, 9), (6, 13)]
    for i, path in enumerate(photos):
        height, width = (4 * side for side in built.lr_sizes[i])
        hr = np.asarray(Image.open(path))[:height, :width]
        np.testing.assert_array_equal(built.hr(i), hr)
        np.testing.assert_array_equal(built.lr(i), matlab_downscale(np.ascontiguousarray(hr), 4))


def test_images_are_read_only_views_of_the_file(built: ImageStore) -> None:
    for image, file in ((built.hr(1), built._hr_file), (built.lr(1), built._lr_file)):
        assert np.shares_memory(image, file)
        assert not image.flags.writeable


@pytest.mark.parametrize("i", [-1, 3])
def test_an_index_outside_the_store_is_refused(built: ImageStore, i: int) -> None:
    with pytest.raises(IndexError, match=f"image {i} of a store of 3"):
        built.hr(i)


def test_names_are_paths_below_the_common_folder(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "set" / "a") + write_photos(tmp_path / "set" / "b" / "c")
    names = build(photos, 2, tmp_path / "store").names
    assert names == ["a/0.png", "a/1.png", "a/2.png", "b/c/0.png", "b/c/1.png", "b/c/2.png"]


def test_the_digest_depends_on_pictures_and_scale_but_not_on_where_they_lie(photos: list[Path], tmp_path: Path) -> None:
    digest = build(photos, 4, tmp_path / "s1").digest
    moved = write_photos(tmp_path / "moved" / "deeper")
    assert build(moved, 4, tmp_path / "s2", workers=3).digest == digest
    assert build(photos, 2, tmp_path / "s3").digest != digest
    assert build(photos[::-1], 4, tmp_path / "s4").digest != digest
    assert build(write_photos(tmp_path / "others", seed=1), 4, tmp_path / "s5").digest != digest


def test_an_unchanged_store_is_opened_without_decoding(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(photos, 4, tmp_path / "store")
    seen = decodings(monkeypatch)
    again = build(photos, 4, tmp_path / "store")
    assert seen == []
    assert again.digest == first.digest


@pytest.mark.parametrize("change", ["scale", "min_size", "photo", "selection", "damage", "format"])
def test_a_store_that_no_longer_fits_is_replaced(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    folder = tmp_path / "store"
    build(photos, 4, folder)
    if change == "photo":
        write_photos(tmp_path / "photos", seed=1)
    if change == "damage":
        (folder / "lr.u8").write_bytes(b"short")
    if change == "format":
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(index | {"format": "mtkd-store/0"}))
    wanted = photos[:2] if change == "selection" else photos
    scale, min_size = (2 if change == "scale" else 4), (8 if change == "min_size" else 1)
    seen = decodings(monkeypatch)
    replaced = build(wanted, scale, folder, min_size=min_size)
    assert seen == wanted
    np.testing.assert_array_equal(replaced.hr(0)[:24, :36], np.asarray(Image.open(photos[0]))[:24, :36])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "store"]


def test_a_folder_with_other_files_is_never_touched(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="something other than an image store"):
        build(photos, 4, tmp_path / "photos")
    assert sorted((tmp_path / "photos").iterdir()) == photos


def test_a_bad_photograph_stops_the_build_and_leaves_nothing_behind(photos: list[Path], tmp_path: Path) -> None:
    photos[1].write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"1\.png: not a readable image"):
        build(photos, 4, tmp_path / "store", workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_with_skip_bad_photographs_are_left_out_and_listed(photos: list[Path], tmp_path: Path) -> None:
    photos[1].write_bytes(b"no image")
    gone = tmp_path / "photos" / "gone.png"
    built = build([*photos, gone], 4, tmp_path / "store", on_bad="skip", min_size=28)
    assert built.names == ["0.png"]
    assert [name for name, _ in built.skipped] == ["1.png", "2.png", "gone.png"]
    reasons = [reason for _, reason in built.skipped]
    assert reasons[0].startswith("not a readable image")
    assert reasons[1].startswith("24x52 pixels after the crop to a multiple of 4, fewer than 28")
    assert reasons[2] == "no such file"
    assert ImageStore.open(tmp_path / "store").skipped == built.skipped


def test_a_store_with_skipped_photographs_is_not_reused_where_they_are_errors(
    photos: list[Path], tmp_path: Path
) -> None:
    photos[1].write_bytes(b"no image")
    build(photos, 4, tmp_path / "store", on_bad="skip")
    with pytest.raises(ImageError, match=r"1\.png"):
        build(photos, 4, tmp_path / "store")


def test_a_small_photograph_is_an_error_that_names_it(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"1\.png: 24x36 pixels .* fewer than 25"):
        build(photos, 4, tmp_path / "store", min_size=25)


def test_a_photograph_smaller_than_the_scale_is_bad(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", sizes=[(3, 9)])
    with pytest.raises(ImageError, match="0x8 pixels"):
        build(photos, 4, tmp_path / "store")


def test_when_every_photograph_is_bad_skipping_is_an_error(photos: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 3 photographs .*0\.png: 28x40 pixels"):
        build(photos, 4, tmp_path / "store", on_bad="skip", min_size=100)


@pytest.mark.parametrize(("count", "scale", "message"), [(0, 4, "no photographs given"), (3, 1, "scale .* got 1")])
def test_impossible_requests_are_refused(
    photos: list[Path], tmp_path: Path, count: int, scale: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(photos[:count], scale, tmp_path / "store")


def test_few_images_are_decoded_ahead_of_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos", sizes=[(8, 8)] * 40)
    photos[0].write_bytes(b"no image")
    seen = decodings(monkeypatch)
    with pytest.raises(ImageError):
        build(photos, 4, tmp_path / "store", workers=2)
    assert len(seen) <= 4


def test_when_another_process_was_faster_its_store_is_used(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pixels = store._write_pixels

    def overtaken(*arguments: Any) -> dict:
        monkeypatch.setattr(store, "_write_pixels", write_pixels)
        build(photos, 4, tmp_path / "store")
        (tmp_path / "store" / "theirs").touch()
        return write_pixels(*arguments)

    monkeypatch.setattr(store, "_write_pixels", overtaken)
    build(photos, 4, tmp_path / "store")
    assert (tmp_path / "store" / "theirs").exists()


def with_lr(photos: list[Path], folder: Path, size: tuple[int, int] | None = None) -> list[Photo]:
    """LR images of noise, as no shrinking makes them: (height, width) of HR / 4, or `size`."""
    rng = np.random.default_rng(5)
    folder.mkdir()
    paired = []
    for path in photos:
        width, height = Image.open(path).size
        lr = rng.integers(0, 256, (*(size or (height // 4, width // 4)), 3), np.uint8)
        Image.fromarray(lr).save(folder / path.name)
        paired.append(Photo(str(path), str(folder / path.name)))
    return paired


def test_lr_images_that_are_given_are_taken_as_they_are(photos: list[Path], tmp_path: Path) -> None:
    paired = with_lr(photos, tmp_path / "lr")
    built = build_store([paired[0], Photo(paired[1].hr_file), paired[2]], 4, tmp_path / "store")
    for i in (0, 2):
        np.testing.assert_array_equal(built.lr(i), np.asarray(Image.open(paired[i].lr_file)))
    np.testing.assert_array_equal(built.lr(1), matlab_downscale(built.hr(1), 4))


@pytest.mark.parametrize("change", ["none", "pixels", "left out"])
def test_a_store_is_reused_as_long_as_its_lr_images_are_the_same(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    paired = with_lr(photos, tmp_path / "lr")
    build_store(paired, 4, tmp_path / "store")
    if change == "pixels":
        Image.fromarray(np.zeros((7, 10, 3), np.uint8)).save(paired[0].lr_file)
    if change == "left out":
        paired[0] = Photo(paired[0].hr_file)
    seen = decodings(monkeypatch)
    build_store(paired, 4, tmp_path / "store")
    assert bool(seen) == (change != "none")


@pytest.mark.parametrize(
    ("size", "hint"), [((15, 20), "these sizes belong to x2"), ((7, 9), "one of the two was cut or replaced")]
)
def test_an_lr_image_of_another_size_is_refused_naming_both_files_sizes_and_what_was_expected(
    photos: list[Path], tmp_path: Path, size: tuple[int, int], hint: str
) -> None:
    paired = with_lr(photos, tmp_path / "lr", size)
    with pytest.raises(ImageError) as error:
        build_store(paired, 4, tmp_path / "store")
    for words in (paired[0].lr_file, f"{size[0]}x{size[1]}", paired[0].hr_file, "30x41", "expected 7x10 for x4", hint):
        assert str(words) in str(error.value)


def test_a_file_that_became_a_link_to_another_place_is_read_anew(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = write_photos(tmp_path / "others", seed=1)
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    files = [tmp_path / "linked" / path.name for path in photos]
    build(files, 4, tmp_path / "store")
    (tmp_path / "linked").unlink()
    (tmp_path / "linked").symlink_to(tmp_path / "others")
    seen = decodings(monkeypatch)
    replaced = build(files, 4, tmp_path / "store")
    assert seen == files
    np.testing.assert_array_equal(replaced.hr(1), np.asarray(Image.open(others[1])))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mapped files elsewhere")
def test_a_store_larger_than_memory_is_built_and_read(tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path, sizes=[(400, 600)])
    script = Path(__file__).with_name("larger_than_memory.py")
    result = subprocess.run(
        [sys.executable, script, photo, "160", tmp_path / "store"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    found = re.fullmatch(r"read all 160 of 115200000 bytes with 1 sum; memory for (\d+)\n", result.stdout)
    assert found
    assert int(found[1]) < 160


def test_a_pickled_store_travels_as_its_path(built: ImageStore) -> None:
    data = pickle.dumps(built)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).hr(2), built.hr(2))


def test_a_pickled_store_refuses_other_images_under_its_path(photos: list[Path], tmp_path: Path) -> None:
    data = pickle.dumps(build(photos, 4, tmp_path / "store"))
    build(photos[1:], 4, tmp_path / "store")
    with pytest.raises(ValueError, match="built anew with other images"):
        pickle.loads(data)


def test_a_folder_without_a_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"no image store in {tmp_path}.*build_store"):
        ImageStore.open(tmp_path)


def test_a_store_with_missing_pixels_is_refused(photos: list[Path], tmp_path: Path) -> None:
    build(photos, 4, tmp_path / "store")
    (tmp_path / "store" / "hr.u8").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"hr\.u8 has 5 bytes, expected 9696"):
        ImageStore.open(tmp_path / "store")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.booleans(), st.integers(0, 3))
def test_lr_and_hr_crops_show_the_same_place_in_the_same_way(
    built: ImageStore, data: st.DataObject, flip: bool, rotate: int
) -> None:
    image, patch = data.draw(st.integers(0, 2)), data.draw(st.integers(1, 6))
    height, width = built.lr_sizes[image]
    y, x = data.draw(st.integers(0, height - patch)), data.draw(st.integers(0, width - patch))
    crops = built.cut(Sample(image, y, x, flip, rotate), patch)
    for crop, full, scale in zip(crops, (built.lr(image), built.hr(image)), (1, built.scale), strict=True):
        side = scale * patch
        expected = full[scale * y : scale * y + side, scale * x : scale * x + side]
        expected = np.rot90(expected[:, ::-1] if flip else expected, rotate).transpose(2, 0, 1)
        np.testing.assert_array_equal(crop, expected)
        assert crop.flags.c_contiguous
        assert crop.flags.owndata


@pytest.mark.parametrize(("y", "x"), [(-1, 0), (0, -1), (3, 0), (0, 6)])
def test_a_crop_over_the_edge_is_refused(built: ImageStore, y: int, x: int) -> None:
    with pytest.raises(ValueError, match=r"over the edge of 1\.png, which has 6x9 LR pixels"):
        built.cut(Sample(1, y, x, False, 0), 4)
