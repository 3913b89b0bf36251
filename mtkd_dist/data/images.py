"""Photographs from files: a file either becomes 8-bit RGB without a change of meaning, or is refused by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

_ON_THE_SIDE = frozenset({5, 6, 7, 8})  # EXIF orientations that exchange height and width
_GREY16_MODES = frozenset({"I;16", "I;16B", "I;16L"})
_COLOUR_KEY_MODES = _GREY16_MODES | {"1", "L", "RGB"}
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX"})


class ImageError(ValueError):
    """An image file that cannot be used: which file, what was found in it, and what mends it."""

    def __init__(self, path: str | Path, found: str, mend: str) -> None:
        super().__init__(path, found, mend)
        self.path, self.found, self.mend = Path(path), found, mend

    def __str__(self) -> str:
        return f"{self.path}: {self.found}; {self.mend}"


def list_images(folder: str | Path) -> list[Path]:
    """The image files under a folder and its subfolders, linked ones included, sorted by their path below the folder.

    Args:
        folder: a folder, whose files count by their suffix (:data:`IMAGE_SUFFIXES`, any case), or one file, which gives
            itself.

    Raises:
        ValueError: if the folder is missing or holds no image.
        OSError: if a subfolder cannot be read.
    """
    return [Path(file) for file in image_files(folder)]


def image_files(folder: str | Path) -> list[str]:
    """:func:`list_images` as text: to make a ``Path`` of each of 85,000 files takes longer than to find them."""
    folder = str(Path(folder))  # without a slash at its end
    if os.path.isfile(folder):
        return [folder]
    if not os.path.isdir(folder):
        raise ValueError(f"no such folder or image file: {folder}")
    images = []
    visited: set[str] = set()  # ends the loops that links to a parent folder make
    waiting = [folder]
    while waiting:
        parent = waiting.pop()
        real = os.path.realpath(parent)
        if real in visited:
            continue
        visited.add(real)
        subfolders, files = scan_folder(parent)
        waiting += [os.path.join(parent, name) for name in reversed(subfolders)]
        images += [f"{parent}{os.sep}{name}" for name in files if is_image_name(name)]
    if not images:
        raise ValueError(
            f"no images in {folder}: looked, also in its subfolders, for {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return sorted(images)


def scan_folder(folder: str) -> tuple[list[str], list[str]]:
    """Sorted names of the subfolders and of the files of one folder; links count as what they lead to."""
    subfolders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            (subfolders if entry.is_dir() else files).append(entry.name)
    return sorted(subfolders), sorted(files)


def is_image_name(name: str) -> bool:
    stem, dot, suffix = name.rpartition(".")
    return stem != "" and dot + suffix.lower() in IMAGE_SUFFIXES


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read one picture as 8-bit RGB, turned upright as its EXIF orientation says.

    Grey becomes three equal channels, a palette its colours; an alpha channel that is opaque everywhere is dropped.
    16-bit grey becomes round(v/257). 16-bit *colour* becomes v>>8, at most one level away from that: Pillow drops the
    low byte while it decodes. Colour profiles are not applied, as is the custom of the field.

    Returns:
        (H, W, 3) uint8 in [0, 255].

    Raises:
        ImageError: for a missing, damaged, truncated or oversized file (twice ``PIL.Image.MAX_IMAGE_PIXELS``); several
            pictures in one file; real transparency; or samples other than 8- or 16-bit grey or RGB, such as CMYK or
            float.
    """
    with _opened(path) as image:
        # An MPO is the JPEG of a phone or stereo camera: the photograph comes first, its companions are no loss.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        image.load()
        upright = ImageOps.exif_transpose(image)
    if frames > 1:
        raise ImageError(path, f"{frames} pictures in one file", "save the one that is meant as a file of its own")
    return _to_rgb(upright, path)


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) in pixels, upright, as the header of the file says, without decoding it. Errors: ImageError."""
    with _opened(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _ON_THE_SIDE
        return (image.width, image.height) if turned else (image.height, image.width)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file; whatever goes wrong with it in the block becomes an ImageError."""
    if not os.path.isfile(path):
        raise ImageError(path, "no such file", "correct the path")
    try:
        with Image.open(path) as image:
            yield image
    except Image.DecompressionBombError as error:
        raise ImageError(path, f"too large to decode safely ({error})", "cut it into smaller images") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them stumble over
        found = f"not a readable image ({type(error).__name__}: {error}; {os.path.getsize(path)} bytes)"
        raise ImageError(path, found, "restore it from its source, or take it out of the folder") from error


def _to_rgb(image: Image.Image, path: str | Path) -> NDArray[np.uint8]:
    if "transparency" in image.info and image.mode in _COLOUR_KEY_MODES:
        # Not compared with the pixels: Pillow gives the key at the depth of the file and the pixels at 8 bits.
        raise ImageError(path, "one colour is marked as transparent", "save it as RGB without transparency")
    if image.mode in _GREY16_MODES:
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode not in _EIGHT_BIT_MODES:
        raise ImageError(
            path,
            f"samples of kind {image.mode}, not 8- or 16-bit grey or RGB",
            "convert it to RGB with its colour profile",
        )
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        if rgba[:, :, 3].min() < 255:
            seen_through = int((rgba[:, :, 3] < 255).sum())
            raise ImageError(path, f"{seen_through} transparent pixels", "lay it over a background and save it as RGB")
        return np.ascontiguousarray(rgba[:, :, :3])
    return np.array(image.convert("RGB"))
