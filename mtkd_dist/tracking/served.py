"""A registered student at work: images in, images out.

Model versions name this module (`loader_module`) and hold no code, so its name and `_load_pyfunc` stay.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtkd_dist.pictures import Upscaler, load_upscaler

Pixels = NDArray[np.uint8]


def _load_pyfunc(path: str) -> Enlarger:
    """What MLflow calls with the model's file of weights."""
    return Enlarger(load_upscaler(path))


class Enlarger:
    """MLflow's `predict`: what goes in as pixels comes out as pixels, a file as a PNG file, base64 as base64."""

    def __init__(self, upscale: Upscaler) -> None:
        self._upscale = upscale

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> Any:
        """Enlarge one image, or several.

        Args:
            images: pixels of (h,w,3) or (B,h,w,3), RGB, whole numbers of 0 to 255; or an array of several images of any
                sizes: arrays of pixels, bytes of image files (also grey, also with transparency), or such bytes in
                base64. MLflow also makes arrays of the lists in JSON, and of a table with one column.
            params: none are known.

        Returns: uint8 pixels (s*h,s*w,3) or (B,s*h,s*w,3); of several images a list.
        Errors: ValueError for anything else, OSError for a file that is no image.
        """
        array = np.asarray(images)
        if array.dtype.kind in "OSU":
            items = array.reshape(-1).tolist() if array.ndim == 0 else array.tolist()
            if not items or not isinstance(items[0], list):
                return [self._one(item) for item in items]
            try:
                array = np.array(items)
            except ValueError:  # they differ in size
                return [self._pixels(np.array(item)) for item in items]
        if array.ndim == 4:
            return np.stack([self._pixels(image) for image in array])
        return self._pixels(array)

    def _one(self, image: Any) -> Any:
        if isinstance(image, str):
            return base64.b64encode(self._file(base64.b64decode(image))).decode()
        return self._file(image) if isinstance(image, bytes) else self._pixels(np.asarray(image))

    def _file(self, content: bytes) -> bytes:
        enlarged = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            self._upscale(image).save(enlarged, "PNG")
        return enlarged.getvalue()

    def _pixels(self, image: NDArray[Any]) -> Pixels:
        if image.ndim != 3 or image.shape[2] != 3 or not image.size or image.dtype.kind not in "ui":
            raise ValueError(f"an image of {image.dtype} {image.shape}; expected uint8 RGB of (h, w, 3), 0 to 255")
        if not 0 <= image.min() <= image.max() <= 255:
            raise ValueError(f"an image with values of {image.min()} to {image.max()}; expected 0 to 255")
        return self._upscale(image.astype(np.uint8))
