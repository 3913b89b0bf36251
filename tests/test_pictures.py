"""Pictures in files: what is read is what is written, with all that belongs to it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image, ImageCms

from mtkd_dist.data import ImageError, read_image
from mtkd_dist.pictures import Picture, files, format_of, read_picture, write_picture

RNG = np.random.default_rng(7)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
OF_GREY = PROFILE[:16] + b"GRAY" + PROFILE[20:]
KINDS = {"grey": 1, "grey and alpha": 2, "RGB": 3, "RGBA": 4}


def pixels(channels: int = 3, dtype: type = np.uint8, height: int = 12, width: int = 9) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype)


def smooth(height: int = 64, width: int = 48) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([2 * y, 3 * x, y + x], -1).astype(np.uint8)


def through(tmp_path: Path, image: Image.Image, kind: str, **options: object) -> Path:
    path = tmp_path / f"given.{kind}"
    image.save(path, **options)
    return path


# What is written comes back


@pytest.mark.parametrize("channels", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("format", ["png", "tif"])
def test_png_and_tiff_keep_every_bit_of_8_and_16(tmp_path: Path, format: str, dtype: type, channels: int) -> None:
    picture = Picture(pixels(channels, dtype))
    write_picture(tmp_path / "a", picture, format)
    found = read_picture(tmp_path / "a")
    assert found.pixels.dtype == dtype
    np.testing.assert_array_equal(found.pixels, picture.pixels)


@pytest.mark.parametrize("channels", [3, 4])
def test_webp_of_quality_100_keeps_every_bit_of_8(tmp_path: Path, channels: int) -> None:
    picture = Picture(pixels(channels))
    picture.pixels[..., 3:] |= 1  # of what cannot be seen, WebP forgets the colour
    write_picture(tmp_path / "a.webp", picture, "webp", quality=100)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.webp").pixels, picture.pixels)


@pytest.mark.parametrize(("format", "most"), [("jpg", 3), ("webp", 8)])
def test_lossy_formats_come_close(tmp_path: Path, format: str, most: int) -> None:
    write_picture(tmp_path / "a", Picture(smooth()), format)
    found = read_picture(tmp_path / "a").pixels.astype(int)
    assert np.abs(found - smooth()).max() <= most


def test_quality_is_that_of_the_file(tmp_path: Path) -> None:
    for quality in (30, 95):
        write_picture(tmp_path / f"{quality}.jpg", Picture(pixels(height=64, width=64)), "jpg", quality)
    assert (tmp_path / "30.jpg").stat().st_size < (tmp_path / "95.jpg").stat().st_size / 2


def test_pillow_reads_16_bits_and_8_as_they_were_written(tmp_path: Path) -> None:
    grey = pixels(1, np.uint16)
    write_picture(tmp_path / "a.png", Picture(grey), "png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), grey[..., 0])
    colour = pixels(4)
    write_picture(tmp_path / "b.tif", Picture(colour), "tif")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.tif")), colour)


@pytest.mark.parametrize(("format", "quality"), [("webp", 100), ("jpg", 100)])
def test_16_bits_become_the_nearest_of_8_where_the_format_has_no_more(
    tmp_path: Path, format: str, quality: int
) -> None:
    deep = np.repeat(np.repeat(pixels(1, np.uint16, 4, 3), 16, 0), 16, 1).repeat(3, -1)  # blocks, as of a JPEG
    write_picture(tmp_path / "a", Picture(deep), format, quality)
    found = read_picture(tmp_path / "a").pixels
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.rint(deep / 257))


# What a picture brings along


def described(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112], exif[0x8298] = 6, "Jane Doe"  # orientation, copyright
    exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"  # when it was taken
    exif.get_ifd(0x8825)[1] = "N"  # where
    Image.fromarray(smooth()).save(path, exif=exif, icc_profile=PROFILE, dpi=(300, 300), quality=95)
    return path


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_exif_and_profile_go_along_and_the_file_is_upright_and_says_so(tmp_path: Path, format: str) -> None:
    picture = read_picture(described(tmp_path / "given.jpg"))
    assert picture.pixels.shape == (48, 64, 3)
    write_picture(tmp_path / "a", picture, format)
    with Image.open(tmp_path / "a") as written:
        assert written.size == (64, 48)
        exif = written.getexif()
        assert (exif[0x0112], exif[0x8298]) == (1, "Jane Doe")
        taken = exif.get_ifd(0x8769)
        assert taken[0x9003] == "2020:01:01 00:00:00"
        assert (taken[0xA002], taken[0xA003]) == (64, 48)
        assert exif.get_ifd(0x8825)[1] == "N"
        assert written.info["icc_profile"] == PROFILE
    np.testing.assert_array_equal(read_picture(tmp_path / "a").pixels.shape, picture.pixels.shape)


def test_tiff_takes_profile_and_resolution(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.tif", read_picture(described(tmp_path / "given.jpg")), "tif")
    with Image.open(tmp_path / "a.tif") as written:
        assert written.info["icc_profile"] == PROFILE
        assert written.info["dpi"] == pytest.approx((300, 300))
        assert written.getexif()[0x0112] == 1


def resolution(path: Path) -> tuple[float, float] | None:
    """Dots per inch, as Pillow reads it."""
    with Image.open(path) as image:
        return image.info.get("dpi")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
@pytest.mark.parametrize("format", ["png", "jpg", "tif"])
def test_resolution_goes_along_without_exif(tmp_path: Path, kind: str, format: str) -> None:
    given = through(tmp_path, Image.fromarray(smooth()), kind, dpi=(300, 150))
    write_picture(tmp_path / "a", read_picture(given), format)
    assert resolution(tmp_path / "a") == pytest.approx((300, 150), abs=0.02)  # PNG counts by the metre


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("format", ["png", "jpg"])
def test_a_resolution_that_nobody_said_is_not_made_up(tmp_path: Path, kind: str, format: str) -> None:
    given = through(tmp_path, Image.fromarray(smooth()), kind, icc_profile=PROFILE)
    write_picture(tmp_path / "a", read_picture(given), format)
    assert resolution(tmp_path / "a") is None
    assert read_picture(tmp_path / "a").pixels.shape == smooth().shape  # the checksum holds


def test_resolution_in_the_exif_of_webp_goes_along(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 300.0, 300.0, 2
    given = through(tmp_path, Image.fromarray(smooth()), "webp", exif=exif)
    for format in ("jpg", "webp"):
        write_picture(tmp_path / f"a.{format}", read_picture(given), format)
    assert resolution(tmp_path / "a.jpg") == (300, 300)
    with Image.open(tmp_path / "a.webp") as written:
        assert written.getexif()[282] == 300


def test_a_jpeg_begins_as_jpegs_do(tmp_path: Path) -> None:
    for name in ("given.jpg", "plain.jpg"):
        picture = read_picture(described(tmp_path / name)) if name == "given.jpg" else Picture(smooth())
        write_picture(tmp_path / name, picture, "jpg")
        data = (tmp_path / name).read_bytes()
        assert data[:11] == b"\xff\xd8\xff\xe0\x00\x10JFIF\0"
        assert data.count(b"JFIF\0") == 1


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_the_thumbnail_of_the_small_picture_stays_behind(tmp_path: Path, format: str) -> None:
    small = io.BytesIO()
    Image.fromarray(smooth()).save(small, "JPEG")
    thumbnail = small.getvalue()
    exif = Image.Exif()
    exif[0x8298] = "Jane Doe"
    given = tmp_path / "given.jpg"
    Image.fromarray(smooth()).save(given, exif=with_thumbnail(exif.tobytes(), thumbnail))
    assert thumbnail in given.read_bytes()
    write_picture(tmp_path / "a", read_picture(given), format)
    assert thumbnail not in (tmp_path / "a").read_bytes()
    assert Image.open(tmp_path / "a").getexif()[0x8298] == "Jane Doe"


def with_thumbnail(exif: bytes, thumbnail: bytes) -> bytes:
    """Little-endian EXIF of one directory, and a second one that holds a JPEG."""
    tiff = bytearray(exif.removeprefix(b"Exif\0\0"))
    order = "big" if tiff[:2] == b"MM" else "little"
    count = int.from_bytes(tiff[8:10], order)
    link = 10 + 12 * count
    place = len(tiff)
    tiff[link : link + 4] = place.to_bytes(4, order)

    def entry(tag: int, value: int) -> bytes:
        parts = (tag, 2), (4, 2), (1, 4), (value, 4)
        return b"".join(number.to_bytes(size, order) for number, size in parts)

    after = place + 2 + 2 * 12 + 4
    tiff += (2).to_bytes(2, order) + entry(0x0201, after) + entry(0x0202, len(thumbnail)) + bytes(4) + thumbnail
    return b"Exif\0\0" + bytes(tiff)


def test_a_picture_without_exif_gets_none(tmp_path: Path) -> None:
    for format in ("png", "jpg", "webp"):
        write_picture(tmp_path / f"a.{format}", Picture(pixels()), format)
        with Image.open(tmp_path / f"a.{format}") as written:
            assert not written.getexif()


def test_the_profile_of_grey_goes_where_grey_stays_grey(tmp_path: Path) -> None:
    given = tmp_path / "grey.tif"
    Image.fromarray(smooth()[..., 0]).save(given, icc_profile=OF_GREY)
    for format, kept in (("png", OF_GREY), ("jpg", OF_GREY), ("webp", None)):
        write_picture(tmp_path / f"a.{format}", read_picture(given), format)
        with Image.open(tmp_path / f"a.{format}") as written:
            assert written.info.get("icc_profile") == kept


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
@pytest.mark.parametrize("kind", ["png", "tif", "webp"])
def test_the_picture_is_turned_upright_once(
    tmp_path: Path, kind: str, orientation: int, upright: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {}
    picture = read_picture(through(tmp_path, Image.fromarray(smooth()), kind, exif=exif, **options))
    np.testing.assert_array_equal(picture.pixels, upright(smooth()))
    write_picture(tmp_path / "a", picture, "png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a").pixels, picture.pixels)


# What is read as grey or RGB


def test_bmp_is_read_as_training_reads_it(tmp_path: Path) -> None:
    path = through(tmp_path, Image.fromarray(smooth()), "bmp")
    np.testing.assert_array_equal(read_picture(path).pixels, read_image(path))


def test_a_palette_becomes_its_colours_and_their_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(smooth()).quantize(16)
    path = through(tmp_path, image, "png", transparency=bytes([0, 128]))
    expected = np.asarray(Image.open(path).convert("RGBA"))
    np.testing.assert_array_equal(read_picture(path).pixels, expected)


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    bits = smooth()[..., :1] > 60
    for kind in ("png", "tif"):
        found = read_picture(through(tmp_path, Image.fromarray(bits[..., 0]), kind)).pixels
        np.testing.assert_array_equal(found, np.where(bits, 255, 0))


def test_a_colour_that_is_marked_as_transparent_becomes_alpha(tmp_path: Path) -> None:
    red = smooth()
    red[:5] = (255, 0, 0)
    found = read_picture(through(tmp_path, Image.fromarray(red), "png", transparency=(255, 0, 0))).pixels
    np.testing.assert_array_equal(found[..., 3], np.where(np.arange(64)[:, None] < 5, 0, 255).repeat(48, 1))


def test_colours_that_were_multiplied_by_alpha_are_divided_again(tmp_path: Path) -> None:
    multiplied = np.full((8, 8, 4), (64, 32, 0, 128), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", multiplied, photometric="rgb", extrasamples=["assocalpha"])
    found = read_picture(tmp_path / "a.tif").pixels.astype(int)
    assert np.abs(found - (127, 64, 0, 128)).max() <= 1


@pytest.mark.parametrize("compression", ["lzw", "deflate", "jpeg"])
def test_compressed_tiffs_are_read(tmp_path: Path, compression: str) -> None:
    names = {"lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate", "jpeg": "jpeg"}
    path = through(tmp_path, Image.fromarray(smooth()), "tif", compression=names[compression])
    assert np.abs(read_picture(path).pixels.astype(int) - smooth()).max() <= (8 if compression == "jpeg" else 0)


# What is refused


def refused(path: Path, *expected: str) -> None:
    with pytest.raises(ImageError) as error:
        read_picture(path)
    assert str(error.value).startswith(f"{path}: ")
    for text in expected:
        assert text in str(error.value)


def test_other_kinds_of_samples_are_refused_by_name(tmp_path: Path) -> None:
    refused(through(tmp_path, Image.fromarray(smooth()).convert("CMYK"), "jpg"), "cmyk", "convert it to RGB")
    refused(through(tmp_path, Image.fromarray(smooth()[..., 0].astype(np.float32)), "tif"), "float")
    refused(through(tmp_path, Image.fromarray(smooth()).convert("LAB"), "tif"))


@pytest.mark.parametrize("kind", ["tif", "webp"])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, kind: str) -> None:
    pages = [Image.fromarray(smooth()), Image.fromarray(smooth()[::-1])]
    path = through(tmp_path, pages[0], kind, save_all=True, append_images=pages[1:])
    refused(path, "2 pictures in one file")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = through(tmp_path, Image.fromarray(pixels(height=40, width=30)), kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refused(path, "not a readable image", "bytes)")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "gone.png", "no such file")
    (tmp_path / "text.png").write_text("a letter")
    refused(tmp_path / "text.png", "not a readable image")
    (tmp_path / "drawn.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    refused(tmp_path / "drawn.svg")


def test_a_file_that_would_unpack_to_a_huge_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = through(tmp_path, Image.fromarray(smooth()), "png")
    monkeypatch.setattr(files, "MOST_PIXELS", 48 * 64 - 1)
    refused(path, "too large (48x64 pixels, expected 0 megapixels at most)")
    monkeypatch.setattr(files, "MOST_PIXELS", 48 * 64)
    read_picture(path)


def test_the_largest_pictures_of_cameras_are_no_bombs(tmp_path: Path) -> None:
    pyvips.Image.black(16320, 12240).jpegsave(str(tmp_path / "phone.jpg"))  # 200 megapixels
    assert read_picture(tmp_path / "phone.jpg").pixels.shape == (12240, 16320, 1)


# What cannot be written


def test_transparent_pixels_are_refused_where_they_cannot_be_kept(tmp_path: Path) -> None:
    picture = Picture(pixels(4))
    picture.pixels[..., 3] = 255
    write_picture(tmp_path / "a.jpg", picture, "jpg")
    assert read_picture(tmp_path / "a.jpg").pixels.shape == (12, 9, 3)
    picture.pixels[3, 4, 3] = 254
    with pytest.raises(ImageError, match=r"b\.jpg: transparent pixels.*--format png"):
        write_picture(tmp_path / "b.jpg", picture, "jpg")
    assert not (tmp_path / "b.jpg").exists()


def test_a_side_that_a_format_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"16384x1 pixels, and \.webp ends at 16383"):
        write_picture(tmp_path / "a.webp", Picture(np.zeros((1, 16384, 3), np.uint8)), "webp")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match=r"a\.png"):
        write_picture(tmp_path / "a.png", Picture(pixels()), "png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(OSError, match="No such file or directory"):
        write_picture(tmp_path / "gone" / "a.png", Picture(pixels()), "png")


def test_the_format_is_that_of_the_name(tmp_path: Path) -> None:
    names = {"a.JPG": "jpg", "a.jpeg": "jpg", "a.tiff": "tif", "a.webp": "webp", "a.png": "png", "a.bmp": "png"}
    assert {name: format_of(Path(name)) for name in names} == names
