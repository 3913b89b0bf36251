"""Pictures in files, with all that they bring: 8 or 16 bits, transparency, which side is up, colour profile, EXIF.

libvips reads and writes them, because Pillow knows no 16-bit colour.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyvips
from numpy.typing import NDArray

from mtkd_dist.data.images import ImageError, read_image
from mtkd_dist.pictures.resolution import forget_resolution, is_said, jfif, resolution_of, with_resolution

QUALITY = 95
"""Of JPEG and WebP, 1 to 100."""
MOST_PIXELS = 500_000_000
"""Of a picture that is read: more than cameras make of one, and still no file of a few KB takes all memory."""
_LOADERS = frozenset({"pngload", "jpegload", "webpload", "tiffload"})
_DTYPES: dict[str, type[np.unsignedinteger[Any]]] = {"uchar": np.uint8, "ushort": np.uint16}
_INTERPRETATIONS = frozenset({"b-w", "srgb", "rgb", "grey16", "rgb16"})
_PROFILE, _THUMBNAIL = "icc-profile-data", "jpeg-thumbnail-data"

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class Picture:
    pixels: Pixels
    """(H,W,C): grey, grey and alpha, RGB, or RGB and alpha; upright."""
    notes: Mapping[str, bytes | str] = field(default_factory=dict)
    """Colour profile and EXIF, by libvips's names."""
    pixels_per_mm: tuple[float, float] | None = None
    """Across and down, as printed; None where nobody said."""

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[2] in (2, 4)


class Format(NamedTuple):
    suffix: str
    save: Callable[[pyvips.Image, str, int], None]
    """Writes to a path, with a quality of 1 to 100."""
    deep: bool
    """Holds 16 bits."""
    alpha: bool
    grey: bool
    side: int
    """The largest, in pixels."""


def _save_png(image: pyvips.Image, path: str, quality: int) -> None:
    # A filter makes photographs smaller by a third; the strongest compression would take ten times as long for 1 %.
    image.pngsave(path, compression=6, filter="paeth", keep=_keep(image))
    if not is_said(image):
        forget_resolution(path)


def _save_jpeg(image: pyvips.Image, path: str, quality: int) -> None:
    data = image.jpegsave_buffer(Q=quality, subsample_mode="off", keep=_keep(image))
    Path(path).write_bytes(data[:2] + jfif(image) + data[2:])


def _save_webp(image: pyvips.Image, path: str, quality: int) -> None:
    image.webpsave(path, Q=quality, lossless=quality == 100, keep=_keep(image))


def _save_tiff(image: pyvips.Image, path: str, quality: int) -> None:
    large = image.width * image.height * image.bands * 2 > 2**31  # offsets of a plain TIFF have 32 bits
    image.tiffsave(path, compression="deflate", predictor="horizontal", bigtiff=large, keep=_keep(image))


FORMATS = {
    "png": Format(".png", _save_png, deep=True, alpha=True, grey=True, side=2**31 - 1),
    "jpg": Format(".jpg", _save_jpeg, deep=False, alpha=False, grey=True, side=65_535),
    "webp": Format(".webp", _save_webp, deep=False, alpha=True, grey=False, side=16_383),
    "tif": Format(".tif", _save_tiff, deep=True, alpha=True, grey=True, side=2**31 - 1),
}
"""What can be written, by the names of `--format`."""
_OTHER_NAMES = {"jpeg": "jpg", "tiff": "tif"}


def format_named(text: str) -> str:
    """The name in :data:`FORMATS` where people write .JPG, jpeg or TIFF; what is no format stays."""
    name = text.lower().removeprefix(".")
    return _OTHER_NAMES.get(name, name)


def format_of(path: Path) -> str:
    """The format of a file's name; what cannot be written (BMP) becomes PNG."""
    name = format_named(path.suffix)
    return name if name in FORMATS else "png"


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a PNG, JPEG, WebP, TIFF or BMP, turned upright as its EXIF orientation says.

    A palette becomes its colours, one bit black and white, a colour that is marked as transparent an alpha channel;
    colours that were multiplied by alpha (TIFF) are divided again. The colour profile is kept and not applied, as is
    the custom of the field.

    Raises:
        ImageError: for a missing, damaged, truncated or oversized file (:data:`MOST_PIXELS`; of BMP, twice
            ``PIL.Image.MAX_IMAGE_PIXELS``); several pictures in one file; or samples other than 8- or 16-bit grey or
            RGB, such as CMYK or float.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(path, "no such file", "correct the path")
    data = path.read_bytes()
    if data[:2] == b"BM":  # libvips reads no BMP
        return Picture(read_image(path))
    try:
        image = pyvips.Image.new_from_buffer(data, "", memory=True, fail_on="error")
        _check(image, path)
        return _decoded(image.autorot(), resolution_of(image, data))
    except pyvips.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        found = f"not a readable image ({lines[1] if len(lines) > 1 else lines[0]}; {len(data)} bytes)"
        raise ImageError(path, found, "restore it from its source, or leave it out") from error


def write_picture(path: str | os.PathLike[str], picture: Picture, format: str, quality: int = QUALITY) -> None:
    """Write a picture as one of :data:`FORMATS`; a reader of `path` meets the old file, none, or the whole new one.

    The file is upright and says so. 16 bits become the nearest of 8 where the format has no more; alpha that is opaque
    everywhere is left out where it cannot be kept. Metadata beside colour profile and EXIF describe the picture that it
    was made of, and stay there; TIFF takes no EXIF.

    Args:
        quality: of JPEG and WebP, 1 to 100; WebP of 100 is lossless.

    Raises:
        ImageError: where the format cannot hold the picture. OSError where the folder cannot be written to.
    """
    path, kind = Path(path), FORMATS[format]
    check_fits(path, picture, format)
    image = _encoded(_fitted(picture, kind))
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch()  # whose error says in words what is wrong with the folder
        kind.save(image, str(temporary), quality)
        os.replace(temporary, path)
    except pyvips.Error as error:
        raise OSError(f"{path} cannot be written: {' '.join(str(error).split())}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_fits(path: str | Path, picture: Picture, format: str, scale: int = 1) -> None:
    """That a format holds a picture, once it is `scale` times as wide and as high; `path` is for the error.

    Raises:
        ImageError: for a side that is too long, or transparent pixels where there is no alpha.
    """
    kind, pixels = FORMATS[format], picture.pixels
    height, width = (scale * side for side in pixels.shape[:2])
    if max(height, width) > kind.side:
        found = f"{width}x{height} pixels, and {kind.suffix} ends at {kind.side} on each side"
        raise ImageError(path, found, "take --format png")
    if picture.has_alpha and not kind.alpha and pixels[..., -1].min() < np.iinfo(pixels.dtype).max:
        raise ImageError(path, f"transparent pixels, which {kind.suffix} cannot hold", "take --format png or webp")


def _check(image: pyvips.Image, path: Path) -> None:
    """Errors: ImageError for what is no single picture of a known kind. Nothing is decoded yet."""
    loader = str(image.get("vips-loader")).removesuffix("_buffer")
    if loader not in _LOADERS:
        raise ImageError(path, f"neither PNG, JPEG, WebP, TIFF nor BMP ({loader})", "save it as one of them")
    if image.width * image.height > MOST_PIXELS:
        found = f"too large ({image.width}x{image.height} pixels, expected {MOST_PIXELS // 10**6} megapixels at most)"
        raise ImageError(path, found, "cut it into smaller images")
    if image.get_typeof("n-pages") and image.get("n-pages") > 1:
        pages = image.get("n-pages")
        raise ImageError(path, f"{pages} pictures in one file", "save the one that is meant as a file of its own")
    if image.interpretation not in _INTERPRETATIONS or image.format not in _DTYPES or image.bands > 4:
        found = f"samples of kind {image.interpretation} ({image.bands} of {image.format})"
        mend = "convert it to RGB with its colour profile"
        raise ImageError(path, f"{found}, not 8- or 16-bit grey or RGB", mend)


def _decoded(image: pyvips.Image, resolution: tuple[float, float] | None) -> Picture:
    notes = {name: image.get(name) for name in image.get_fields() if name.startswith("exif-") or name == _PROFILE}
    pixels = image.numpy().reshape(image.height, image.width, image.bands)
    return Picture(pixels, notes, resolution)


def _fitted(picture: Picture, kind: Format) -> Picture:
    """As much of a picture as a format holds that `check_fits` has let pass."""
    pixels, notes = picture.pixels, dict(picture.notes)
    if picture.has_alpha and not kind.alpha:
        pixels = pixels[..., :-1]
    if picture.pixels.shape[2] <= 2 and not kind.grey:
        pixels = np.concatenate([pixels[..., :1].repeat(3, -1), pixels[..., 1:]], -1)
        notes.pop(_PROFILE, None)  # of grey
    if pixels.dtype == np.uint16 and not kind.deep:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return replace(picture, pixels=pixels, notes=notes)


def _encoded(picture: Picture) -> pyvips.Image:
    pixels = picture.pixels
    names = ("grey16", "rgb16") if pixels.dtype == np.uint16 else ("b-w", "srgb")
    image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels), interpretation=names[pixels.shape[2] > 2])
    image = with_resolution(image, picture.pixels_per_mm)
    for name, value in picture.notes.items():
        kind = pyvips.GValue.blob_type if isinstance(value, bytes) else pyvips.GValue.gstr_type
        image.set_type(kind, name, value)
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    # EXIF may hold a thumbnail of the small picture. libvips leaves it out of an image that had one and lost it.
    image.set_type(pyvips.GValue.blob_type, _THUMBNAIL, b"")
    image.remove(_THUMBNAIL)
    return image


def _keep(image: pyvips.Image) -> str:
    """libvips would make EXIF of its own for a picture without."""
    return "exif:icc" if image.get_typeof("exif-data") else "icc"
