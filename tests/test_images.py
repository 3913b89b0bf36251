from __future__ import annotations

import importlib.resources
import io
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mtkd_dist.data import ImageError, demo_photos, list_images, read_image

RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RGB[:, :, 0]
OPAQUE = np.full((6, 9, 1), 255, np.uint8)
HALF_SEEN_THROUGH = np.where(np.arange(9) < 4, 128, 255).astype(np.uint8)[None, :, None].repeat(6, axis=0)
AS_RGB = np.repeat(GREY[:, :, None], 3, axis=2)


def png16(samples: np.ndarray, colour_type: int) -> bytes:
    """A 16-bit PNG, which Pillow cannot write in colour; samples are (H, W, channels) uint16."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette_image(alpha_of_first_colour: int) -> tuple[bytes, np.ndarray]:
    colours = RNG.integers(0, 256, (4, 3), np.uint8)
    indices = RNG.integers(0, 4, (6, 9), np.uint8)
    indices[0, 0] = 0
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.reshape(-1).tolist())
    image.putpalette(colours.tobytes())
    return encoded(image, "PNG", transparency=bytes([alpha_of_first_colour, 255, 255, 255])), colours[indices]


def save(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("bmp", {}), ("tif", {}), ("webp", {"lossless": True})])
def test_lossless_rgb_files_come_back_exactly(tmp_path: Path, suffix: str, options: dict) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, **options)
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RGB)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (GREY, AS_RGB),
        (np.concatenate([GREY[:, :, None], OPAQUE], axis=2), AS_RGB),
        (np.concatenate([RGB, OPAQUE], axis=2), RGB),
        (GREY > 127, np.where(AS_RGB > 127, 255, 0)),
    ],
    ids=["grey", "grey and opaque alpha", "RGB and opaque alpha", "one bit"],
)
def test_kinds_that_mean_the_same_become_rgb(tmp_path: Path, pixels: np.ndarray, expected: np.ndarray) -> None:
    path = save(tmp_path, "a.png", encoded(Image.fromarray(pixels), "PNG"))
    np.testing.assert_array_equal(read_image(path), expected)


def test_an_opaque_palette_becomes_its_colours(tmp_path: Path) -> None:
    data, expected = palette_image(alpha_of_first_colour=255)
    np.testing.assert_array_equal(read_image(save(tmp_path, "a.png", data)), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_rounded_to_8_bits(tmp_path: Path, kind: str) -> None:
    values = np.arange(0, 65536, 5, dtype=np.uint16)[:13056].reshape(102, 128)
    image = read_image(save(tmp_path, "a", encoded(Image.fromarray(values), kind)))
    np.testing.assert_array_equal(image, np.rint(values / 257)[:, :, None].repeat(3, axis=2))


def test_16_bit_colour_is_at_most_one_level_from_rounding(tmp_path: Path) -> None:
    values = RNG.integers(0, 65536, (40, 50, 3), np.uint16)
    image = read_image(save(tmp_path, "a.png", png16(values, colour_type=2)))
    assert np.abs(image - values / 257).max() <= 1


@pytest.mark.parametrize(
    "data",
    [
        encoded(Image.fromarray(np.concatenate([RGB, HALF_SEEN_THROUGH], axis=2)), "PNG"),
        encoded(Image.fromarray(np.concatenate([GREY[:, :, None], HALF_SEEN_THROUGH], axis=2)), "PNG"),
        encoded(Image.fromarray(np.concatenate([RGB, HALF_SEEN_THROUGH], axis=2)), "WEBP", lossless=True),
        png16(np.full((6, 9, 4), 300, np.uint16), colour_type=6),
        palette_image(alpha_of_first_colour=0)[0],
        encoded(Image.fromarray(RGB), "PNG", transparency=(255, 0, 0)),
        encoded(Image.fromarray(GREY.astype(np.uint16)), "PNG", transparency=3),
    ],
    ids=["RGBA", "LA", "WebP", "16-bit RGBA", "palette", "colour key", "16-bit grey key"],
)
def test_transparency_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ImageError, match=r"transparent.*save it as RGB"):
        read_image(save(tmp_path, "a", data))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"), "CMYK"),
        (encoded(Image.fromarray(RGB).convert("LAB"), "TIFF"), "LAB"),
        (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "F"),
        (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "I"),
    ],
)
def test_other_kinds_of_samples_are_refused_by_name(tmp_path: Path, data: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=f"samples of kind {kind}, .* convert it to RGB"):
        read_image(save(tmp_path, "a", data))


def test_a_file_of_several_pictures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    Image.fromarray(RGB).save(path, save_all=True, append_images=[Image.fromarray(RGB)])
    with pytest.raises(ImageError, match="2 pictures in one file"):
        read_image(path)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_the_picture_is_turned_upright_as_exif_says(
    tmp_path: Path, orientation: int, upright: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, "a.png", encoded(Image.fromarray(RGB), "PNG", exif=exif))
    np.testing.assert_array_equal(read_image(path), upright(RGB))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(share=st.floats(0, 0.9), kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]))
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, kind: str) -> None:
    data = encoded(Image.fromarray(RNG.integers(0, 256, (40, 30, 3), np.uint8)), kind)
    path = save(tmp_path, "a", data[: int(share * len(data))])
    with pytest.raises(ImageError, match="not a readable image"):
        read_image(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]),
    damage=st.dictionaries(st.integers(0, 400), st.integers(0, 255), min_size=1, max_size=6),
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_a_damaged_file_gives_an_image_or_an_image_error(tmp_path: Path, kind: str, damage: dict[int, int]) -> None:
    data = bytearray(encoded(Image.fromarray(RGB), kind))
    for position, value in damage.items():
        data[position % len(data)] = value
    path = save(tmp_path, "a", bytes(data))
    with pytest.MonkeyPatch.context() as patch:
        # A damaged header may claim any size below Pillow's limit, and decoding that takes its time.
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
        try:
            image = read_image(path)
        except ImageError:
            return
    assert image.dtype == np.uint8
    assert image.ndim == 3


def test_a_file_that_would_unpack_to_a_huge_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, "bomb.png", encoded(Image.fromarray(RGB), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ImageError, match="too large to decode safely"):
        read_image(path)


def test_a_missing_file_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")


def test_an_image_error_keeps_its_parts_through_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.png", "too dark", "add light")))
    assert (str(error), error.path, error.found, error.mend) == (
        "a.png: too dark; add light",
        Path("a.png"),
        "too dark",
        "add light",
    )


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_images_are_found_in_all_subfolders_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["a.PNG", "a/z.jpeg", "b.webp", "b/c/d.tiff", "b/e.Jpg", "c.bmp", "d.tif"]
    touch(*(tmp_path / name for name in reversed(names)), tmp_path / "notes.txt", tmp_path / "a" / "png")
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == names


def test_linked_folders_are_searched_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "b.png", tmp_path / "set" / "a.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "loop").symlink_to(tmp_path / "set")
    assert list_images(tmp_path / "set") == [tmp_path / "set" / "a.png", tmp_path / "set" / "linked" / "b.png"]


def test_one_file_lists_itself(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    assert list_images(str(tmp_path / "a.png")) == [tmp_path / "a.png"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no such folder or image file: .*gone"):
        list_images(tmp_path / "gone")


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=rf"no images in .*{tmp_path.name}"):
        list_images(tmp_path)


def test_the_demo_photographs_can_all_be_read_and_are_large_enough_for_crops_of_192() -> None:
    photos = demo_photos()
    assert len(photos.train) >= 8
    assert len(photos.held_out) >= 2
    assert all(min(read_image(path).shape[:2]) >= 192 for path in photos.train + photos.held_out)


def test_no_scene_of_the_demo_is_both_learned_from_and_judged_by() -> None:
    def scenes(paths: list[Path]) -> set[str]:
        return {path.stem.removesuffix("_left").removesuffix("_right") for path in paths}

    photos = demo_photos()
    assert not scenes(photos.train) & scenes(photos.validation + photos.held_out)


def test_missing_demo_photographs_are_named_with_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"scikit-image \d+\.\d+.* lacks astronaut\.png, .*install"):
        demo_photos()
