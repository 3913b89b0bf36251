"""A picture strip that shows what every network made of one sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MARGIN = 8
LABEL_SIZE = 14
BACKGROUND = (255, 255, 255)
INK = (20, 20, 20)


def sample_grid(images: Mapping[str, np.ndarray], out: Path) -> None:
    """Writes one PNG with all images beside each other, in the given order, each under its label.

    An image that is lower than the highest one (the LR input) is enlarged by the integer factor between them, each
    pixel a square; no other pixel is changed. Sizes in pixels: 8 around and between the panels.

    Args:
        images: label -> uint8 array (height, width, 3), RGB. Labels in Latin letters: Pillow's own font has no others.
        out: the PNG file; its folder is made when absent.

    Raises:
        ValueError: no image, a wrong shape or dtype, or a height that does not divide the highest one.
    """
    if not images:
        raise ValueError("sample_grid got no images; expected at least one")
    for label, image in images.items():
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image {label!r} is {image.dtype} of shape {image.shape}; expected uint8 of shape (height, width, 3)"
            )
    height = max(image.shape[0] for image in images.values())
    panels = {label: _enlarged(label, image, height) for label, image in images.items()}

    font = ImageFont.load_default(LABEL_SIZE)
    label_height = round(1.5 * LABEL_SIZE)
    # A label may be wider than a small image; letters reach a pixel beyond their length.
    widths = [max(panel.shape[1], math.ceil(font.getlength(label)) + 2) for label, panel in panels.items()]
    size = (sum(widths) + MARGIN * (len(panels) + 1), height + label_height + 2 * MARGIN)
    strip = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(strip)
    left = MARGIN
    for (label, panel), width in zip(panels.items(), widths, strict=True):
        middle = left + width // 2
        draw.text((middle, MARGIN + label_height // 2), label, fill=INK, font=font, anchor="mm")
        strip.paste(Image.fromarray(panel), (middle - panel.shape[1] // 2, MARGIN + label_height))
        left += width + MARGIN
    out.parent.mkdir(parents=True, exist_ok=True)
    strip.save(out, format="PNG")


def _enlarged(label: str, image: np.ndarray, height: int) -> np.ndarray:
    factor, rest = divmod(height, image.shape[0])
    if rest:
        raise ValueError(
            f"image {label!r} is {image.shape[0]} pixels high, which does not divide {height}, the height of the "
            "highest image; crop the images to the same region first"
        )
    return np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1))
