"""`--data` of the evaluation command: which photographs make up a set, and the scale that their folder speaks of."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mtkd_dist.config.load import ConfigError, nearest
from mtkd_dist.data import ImageError, list_images, matlab_downscale, read_image
from mtkd_dist.metrics import SSIM_WINDOW, VGG_WINDOW, modcrop
from mtkd_dist.pools.evaluate import PERCEPTUAL, Extra, Uint8Image
from mtkd_dist.stages.check import named_set


class FoundSet(NamedTuple):
    """The photographs of one folder."""

    hr: list[Path]
    scales: tuple[int, ...]
    """Scales for which low-resolution images lie beside them; empty: the folder speaks of none."""


@dataclass(frozen=True)
class PhotoFile:
    """A photograph in a file; LR is made of it by the worker that scores it."""

    set: str
    name: str
    hr: Path
    scale: int
    with_details: bool = False

    def read(self) -> tuple[str, Uint8Image, Uint8Image]:
        """Name, LR (h,w,3), HR (s*h,s*w,3). Errors: ImageError."""
        hr = np.ascontiguousarray(modcrop(read_image(self.hr), self.scale))
        return self.name, matlab_downscale(hr, self.scale), hr


def find_sets(entries: Sequence[str]) -> dict[str, FoundSet]:
    """`FOLDER` or `NAME=FOLDER` -> name of a set -> its photographs. Errors: ConfigError."""
    sets: dict[str, FoundSet] = {}
    for entry in entries:
        name, folder = named_set(entry)
        if name in sets:
            raise ConfigError(f"--data: two sets are called {name!r}; name one of them: NAME={folder}")
        path = Path(folder)
        if not path.exists():
            beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
            close = nearest(path.name, beside)
            raise ConfigError(f"--data: {folder!r} does not exist; expected a folder of photographs.{close}")
        try:
            sets[name] = _find(path)
        except ValueError as error:
            raise ConfigError(f"--data: {error}") from None
    return sets


def choose_scales(of_models: Mapping[str, int], asked: int | None, sets: Mapping[str, FoundSet]) -> list[int]:
    """The scales to score at: those of the models; without a model the one asked for, or the only one of the data.

    Args:
        of_models: file -> its scale.
        asked: `--scale`.

    Errors: ConfigError.
    """
    for file, scale in of_models.items():
        if asked not in (None, scale):
            raise ConfigError(f"--scale {asked}: {file} enlarges {scale} times; leave --scale out, models know theirs")
    if of_models:
        return sorted(set(of_models.values()))
    if asked is not None:
        return [asked]
    found = {name: of_set.scales for name, of_set in sets.items()}
    every = {scale for scales in found.values() for scale in scales}
    if len(every) == 1:
        return list(every)
    said = "; ".join(f"{name}: {', '.join(f'x{scale}' for scale in found[name])}" for name in found if found[name])
    raise ConfigError(
        "the scale is not known, because bicubic has none of its own and the data "
        f"{f'has several ({said})' if every else 'says none'}; give --scale"
    )


def photos_of(sets: Mapping[str, FoundSet], scales: Sequence[int], extra: Sequence[Extra]) -> list[PhotoFile]:
    """Every photograph at every scale. Errors: ImageError for a file that has no image header or is too small."""
    window = VGG_WINDOW if any(name in PERCEPTUAL for name in extra) else SSIM_WINDOW
    photos: list[PhotoFile] = []
    for name, found in sets.items():
        root = os.path.commonpath([path.parent for path in found.hr])
        sizes = {path: _image_size(path) for path in found.hr}
        for scale in scales:
            # Cropped to a multiple of the scale, then shaved by the scale on each side.
            least = -(-(window + 2 * scale) // scale) * scale
            for path, (height, width) in sizes.items():
                if min(height, width) < least:
                    raise ImageError(
                        path,
                        f"{height}x{width} pixels (HxW)",
                        f"scores at x{scale} need at least {least}x{least}: take it out of the folder",
                    )
                photos.append(PhotoFile(name, path.relative_to(root).as_posix(), path, scale))
    return photos


def _find(folder: Path) -> FoundSet:
    """A plain folder or image file, or a folder `HR` (or the one that holds it) with `LR_bicubic/X4` beside it."""
    hr = folder / "HR" if (folder / "HR").is_dir() else folder
    beside = hr.parent / "LR_bicubic"
    names = [path.name for path in beside.iterdir()] if hr.name == "HR" and beside.is_dir() else []
    return FoundSet(list_images(hr), tuple(sorted(int(name[1:]) for name in names if re.fullmatch(r"X\d+", name))))


def _image_size(path: Path) -> tuple[int, int]:
    """(height, width) as the header of the file says, without decoding it. Errors: ImageError."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them stumble over
        found = f"not a readable image ({type(error).__name__}: {error}; {os.path.getsize(path)} bytes)"
        raise ImageError(path, found, "restore it from its source, or take it out of the folder") from error
