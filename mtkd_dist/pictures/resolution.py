"""How large a picture is as printed: what files say of it, where libvips keeps it to itself or makes it up."""

from __future__ import annotations

import mmap
import struct
import zlib
from fractions import Fraction

import pyvips

MM_PER_INCH = 25.4
UNKNOWN = 72 / MM_PER_INCH
"""Pixels per mm that EXIF and TIFF, which must have a number, give where nobody said."""
_UNIT = "resolution-unit"


def resolution_of(image: pyvips.Image, data: bytes) -> tuple[float, float] | None:
    """Pixels per mm across and down as the file `data` says, or None: libvips then has a number of its own."""
    if str(image.get("vips-loader")).startswith("webp") and is_said(image):  # of which libvips reads the unit alone
        mm = 10 if image.get(_UNIT) == "cm" else MM_PER_INCH
        across, down = (float(Fraction(image.get(f"exif-ifd0-{axis}Resolution").split()[0])) / mm for axis in "XY")
        return across, down
    said = is_said(image) or b"pHYs" in data[: max(0, data.find(b"IDAT"))]
    return (image.xres, image.yres) if said else None


def with_resolution(image: pyvips.Image, pixels_per_mm: tuple[float, float] | None) -> pyvips.Image:
    """The image as one of that resolution; None: unknown."""
    across, down = pixels_per_mm or (UNKNOWN, UNKNOWN)
    image = image.copy(xres=across, yres=down)
    if pixels_per_mm:
        image.set_type(pyvips.GValue.gstr_type, _UNIT, "in")
    return image


def is_said(image: pyvips.Image) -> bool:
    """Whether somebody said the resolution of an image by `with_resolution`, or of a file other than PNG."""
    return bool(image.get_typeof(_UNIT))


def jfif(image: pyvips.Image) -> bytes:
    """The header that JPEGs begin with, after their mark: version 1.1, dots per inch or unknown, no thumbnail.

    libvips tells the resolution in EXIF alone, of which a picture may have none.
    """
    known = is_said(image)
    sides = (round(MM_PER_INCH * per_mm) if known else 1 for per_mm in (image.xres, image.yres))
    across, down = (min(max(side, 1), 65_535) for side in sides)
    return b"\xff\xe0" + struct.pack(">H5sHBHHBB", 16, b"JFIF", 0x0101, known, across, down, 0, 0)


def forget_resolution(path: str) -> None:
    """In a PNG by libvips, which always names one: pixels are square, and of no known size."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        # A chunk: its length, its name, here pixels per unit across and down and the unit (1: metre), a checksum.
        start = data.find(struct.pack(">I4s", 9, b"pHYs")) + 4
        chunk = struct.pack(">4sIIB", b"pHYs", 1, 1, 0)
        data[start : start + 17] = chunk + struct.pack(">I", zlib.crc32(chunk))
