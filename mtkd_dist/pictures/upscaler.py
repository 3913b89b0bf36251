"""Pictures in, larger pictures out, each of the kind that it came as: Pillow's, arrays of numpy, tensors of torch."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mtkd_dist.models import is_aggregator, load_network
from mtkd_dist.models.ensemble import self_ensemble
from mtkd_dist.models.precision import Autocast, inference_dtype
from mtkd_dist.pictures.memory import (
    LARGEST,
    PROBE,
    SHARE,
    bytes_per_pixel,
    free_bytes,
    is_out_of_memory,
    largest_tile,
)
from mtkd_dist.pictures.pillow import array_of, image_of, upright
from mtkd_dist.pictures.tiles import GRID, SMALLEST, enlarged_strips
from mtkd_dist.pictures.transparency import Bounds, spread_colours

AnyPicture = TypeVar("AnyPicture", Image.Image, NDArray[Any], Tensor)
BRIGHTEST = 1.25
"""Of floats in [0,1]: a picture that was resized goes a little beyond; one that goes further has another white."""
Progress = Callable[[float], None]
"""Gets the share of a picture that is done, from 0 to 1."""
_Put = Callable[[int, Tensor], None]
"""Gets the first row of a strip, and the strip (1,3,rows,s*w) float32 in [0,1]."""


def load_upscaler(
    path: str | os.PathLike[str],
    *,
    input_range: float | None = None,
    device: str | torch.device | None = None,
    self_ensemble: bool = False,
    tile: int | None = None,
    memory_share: float = SHARE,
) -> Upscaler:
    """The network of a weight file, ready for pictures; see :class:`Upscaler`.

    Args:
        path: a student, or any other file that teachers may be given as.
        input_range: of the values that the network was trained on; None: as its architecture says.

    Errors: FileNotFoundError; ValueError for a file that cannot be read, is no known network, or is an aggregator.
    """
    if Path(path).is_file() and is_aggregator(path):
        raise ValueError(
            f"{path} is an aggregator: it makes one image of those of its teachers, and enlarges nothing by itself; "
            "give the student, or one of the teachers"
        )
    network = load_network(path, input_range=input_range)
    return Upscaler(network.module, network.scale, device, self_ensemble, tile, memory_share)


class Upscaler:
    """Enlarges pictures of any size, and gives back the kind that it was given.

    - ``PIL.Image``: comes back upright, with colour profile, EXIF and transparency. A palette becomes RGB. Pillow
      writes what is asked for:
      ``large.save("large.jpg", icc_profile=large.info.get("icc_profile"), exif=large.getexif())``.
    - numpy, (H,W) or (H,W,C) of grey, grey and alpha, RGB, or RGB and alpha: uint8, uint16, or floats in [0,1].
    - torch, (3,h,w) or (B,3,h,w) RGB: uint8 or floats in [0,1]; comes back on its own device, without gradients.

    Grey is the mean of what the network makes of three equal channels. Alpha is enlarged by the network, too; pixels
    that cannot be seen take the colour of the nearest one that can.

    A picture that does not fit into the free memory is done in tiles with blended seams, and when memory runs out all
    the same, in tiles of half that side. On a GPU the network computes in float16, unless it leaves its range.

    Args:
        network: (B,3,h,w) RGB in [0,1] -> (B,3,s*h,s*w), for any h and w.
        scale: s.
        device: where to compute; None: on the GPU, if there is one.
        self_ensemble: answer with the mean over all 8 flips and rotations; takes eight times as long.
        tile: side in LR pixels of what the network sees at once; None: what fits into memory.
        memory_share: how much of the free memory tiles may take.
    """

    def __init__(
        self,
        network: nn.Module,
        scale: int,
        device: str | torch.device | None = None,
        self_ensemble: bool = False,
        tile: int | None = None,
        memory_share: float = SHARE,
    ) -> None:
        if tile is not None and tile < SMALLEST:
            raise ValueError(f"tile={tile} is too small, because tiles overlap; expected {SMALLEST} LR pixels or more")
        self.scale = scale
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network = network.eval().requires_grad_(False).to(self.device)
        self._dtype = inference_dtype("auto", self.device)
        self._self_ensemble = self_ensemble
        self._tile = tile
        self._memory_share = memory_share

    def __call__(self, picture: AnyPicture, progress: Progress = lambda share: None) -> AnyPicture:
        """The picture, `scale` times as wide and as high.

        Errors: TypeError and ValueError for what is no picture of a kind above; ValueError where the network answers
        NaN or infinity; MemoryError where not even the smallest tile fits.
        """
        if isinstance(picture, Image.Image):
            turned = upright(picture)
            return image_of(self._array(array_of(turned), progress), turned)
        if isinstance(picture, np.ndarray):
            return self._array(picture, progress)
        if isinstance(picture, Tensor):
            return self._tensor(picture, progress)
        raise TypeError(
            f"a {type(picture).__name__} is no picture; expected a PIL.Image, an array (H,W,C) or a tensor (B,3,h,w). "
            "mtkd_dist.pictures.read_picture reads files"
        )

    def _array(self, picture: NDArray[Any], progress: Progress) -> NDArray[Any]:
        peak = _peak_of_array(picture)
        pixels = picture[..., None] if picture.ndim == 2 else picture
        height, width, channels = pixels.shape
        result = np.empty((self.scale * height, self.scale * width, channels), pixels.dtype)
        if channels in (1, 3):
            self._layer(pixels, result, peak, None, progress)
        else:
            colours, alpha = spread_colours(pixels[..., :-1], pixels[..., -1]), pixels[..., -1:]
            self._layer(colours, result[..., :-1], peak, None, lambda share: progress(share / 2))
            if alpha.min() == alpha.max():
                result[..., -1:] = alpha.flat[0]
                progress(1.0)
            else:
                bounds = Bounds(_to_unit(alpha, peak))
                self._layer(alpha, result[..., -1:], peak, bounds, lambda share: progress((1 + share) / 2))
        return result.reshape(result.shape[: picture.ndim])

    def _layer(
        self, layer: NDArray[Any], result: NDArray[Any], peak: float, bounds: Bounds | None, progress: Progress
    ) -> None:
        """Fill `result` (s*h,s*w,C) from `layer` (h,w,C), of one or three channels."""
        lr = _to_unit(layer, peak)

        def put(top: int, strip: Tensor) -> None:
            if lr.shape[1] == 1:
                strip = strip.mean(1, keepdim=True)
            if bounds is not None:
                strip = bounds.keep(strip, top, self.scale)
            result[top : top + strip.shape[-2]] = _from_unit(strip[0], peak).permute(1, 2, 0).numpy()

        self._enlarge(lr.expand(-1, 3, -1, -1), put, progress)

    def _tensor(self, picture: Tensor, progress: Progress) -> Tensor:
        peak = _peak_of_tensor(picture)
        images = picture.detach().reshape(-1, *picture.shape[-3:])
        height, width = (self.scale * side for side in picture.shape[-2:])
        result = torch.empty(len(images), 3, height, width, dtype=picture.dtype, device=picture.device)
        for i, image in enumerate(images):  # one by one: so many may not fit at a time

            def put(top: int, strip: Tensor, own: Tensor = result[i : i + 1]) -> None:
                own[..., top : top + strip.shape[-2], :] = _from_unit(strip, peak)

            done = functools.partial(lambda before, share: progress((before + share) / len(images)), i)
            self._enlarge(image[None].float() / peak, put, done)
        return result.reshape(*picture.shape[:-2], height, width)

    def _enlarge(self, lr: Tensor, put: _Put, progress: Progress) -> None:
        """The answer to `lr`, (1,3,h,w) float32 in [0,1], goes to `put` in strips; at times again from the top."""
        lr = lr.to(self.device)
        side = max(lr.shape[-2:])
        tile = self._tile or self._fitting_tile(lr)
        while True:
            try:
                self._enlarge_by(tile, lr, put, progress)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                tile = self._tile = _halved(min(tile, side), error)
            except _NotFinite:
                if self._dtype == torch.float32:
                    raise ValueError("the network answers NaN or infinity; was its training sound?") from None
                self._dtype = torch.float32
            # Only here: the error held what was in memory when it was raised.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    @torch.inference_mode()
    def _enlarge_by(self, tile: int, lr: Tensor, put: _Put, progress: Progress) -> None:
        top, rows = 0, self.scale * lr.shape[-2]
        for strip in enlarged_strips(self._asked(), lr, self.scale, tile):
            if not strip.isfinite().all():
                raise _NotFinite
            put(top, strip.clamp_(0, 1))
            top += strip.shape[-2]
            progress(top / rows)

    def _asked(self) -> Callable[[Tensor], Tensor]:
        network = Autocast(self._network, self._dtype)
        return functools.partial(self_ensemble, network) if self._self_ensemble else network

    def _fitting_tile(self, lr: Tensor) -> int:
        height, width = lr.shape[-2:]
        if max(height, width) <= 2 * PROBE:
            return LARGEST  # to measure would take longer than to try
        free = self._memory_share * free_bytes(torch.device("cpu"))
        on_gpu = self._memory_share * free_bytes(self.device) if self.device.type == "cuda" else None
        return largest_tile(height, width, self.scale, self._bytes_per_pixel, free, on_gpu)

    @functools.cached_property
    def _bytes_per_pixel(self) -> float:
        return bytes_per_pixel(self._asked(), self.device)


class _NotFinite(Exception):
    """NaN or infinity in an answer."""


def _halved(tile: int, error: BaseException) -> int:
    if tile <= SMALLEST:
        raise MemoryError(
            f"not even a tile of {tile} LR pixels fits into memory; free some, or take the CPU. {error}"
        ) from error
    return max(SMALLEST, tile // 2 // GRID * GRID)


def _peak_of_array(picture: NDArray[Any]) -> float:
    """The value of white. Errors: ValueError for what is no picture."""
    if picture.ndim not in (2, 3) or 0 in picture.shape or (picture.ndim == 3 and picture.shape[2] > 4):
        raise ValueError(
            f"an array of shape {picture.shape} is no picture; expected (H,W) or (H,W,C) with 1 to 4 channels last"
        )
    if picture.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(picture.dtype).max)
    if not np.issubdtype(picture.dtype, np.floating):
        raise ValueError(f"an array of {picture.dtype} is no picture; expected uint8, uint16, or floats in [0,1]")
    _check_floats(float(picture.min()), float(picture.max()))
    return 1.0


def _peak_of_tensor(picture: Tensor) -> float:
    if picture.ndim not in (3, 4) or picture.shape[-3] != 3 or 0 in picture.shape:
        raise ValueError(f"a tensor of shape {tuple(picture.shape)} is no picture; expected (3,h,w) or (B,3,h,w)")
    if picture.dtype == torch.uint8:
        return 255.0
    if not picture.is_floating_point():
        raise ValueError(f"a tensor of {picture.dtype} is no picture; expected uint8, or floats in [0,1]")
    _check_floats(*(float(end) for end in picture.detach().aminmax()))
    return 1.0


def _check_floats(least: float, most: float) -> None:
    """Errors: ValueError where samples between these are none of [0,1]; both are NaN where one sample is."""
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError("the picture holds NaN or infinity; expected floats in [0,1]")
    if most > BRIGHTEST:
        raise ValueError(
            f"the picture holds floats up to {most:g}; expected [0,1]: divide it by its white, such as 255"
        )


def _to_unit(pixels: NDArray[Any], peak: float) -> Tensor:
    """(h,w,C) -> (1,C,h,w) float32 in [0,1]."""
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(peak)).permute(2, 0, 1)[None]


def _from_unit(values: Tensor, peak: float) -> Tensor:
    return (values * peak).round() if peak > 1 else values
