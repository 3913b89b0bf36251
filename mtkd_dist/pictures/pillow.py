"""Pillow's images as arrays and back, with what they bring along."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

_AS_THEY_ARE = ("L", "LA", "RGB", "RGBA")
_CONVERTED = {"1": "L", "La": "LA", "P": "RGB", "PA": "RGBA", "RGBX": "RGB", "RGBa": "RGBA"}
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
_KEPT = ("icc_profile", "exif", "dpi")


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says, in a mode that is an array of grey or RGB, with alpha or without.

    Errors: ValueError for other kinds, such as CMYK and float.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP and "transparency" not in image.info:
        return image
    if image.mode not in (*_AS_THEY_ARE, *_CONVERTED):
        raise ValueError(
            f"an image of mode {image.mode!r} is none of grey or RGB with 8 bits or grey with 16; convert it with its "
            "colour profile: image.convert('RGB')"
        )
    mode = _CONVERTED.get(image.mode, image.mode)
    if image.has_transparency_data and mode in ("L", "RGB"):
        mode = {"L": "LA", "RGB": "RGBA"}[mode]
    return image if image.mode == mode else image.convert(mode)


def array_of(image: Image.Image) -> NDArray[Any]:
    """(H,W) or (H,W,C) uint8, or (H,W) uint16, of an upright image."""
    array = np.asarray(image)
    return array.astype(np.uint16) if image.mode in _DEEP else array


def image_of(array: NDArray[Any], source: Image.Image) -> Image.Image:
    """An image with the colour profile, EXIF and resolution of the upright `source`."""
    image = Image.fromarray(array)
    image.info.update({key: source.info[key] for key in _KEPT if key in source.info})
    return image
