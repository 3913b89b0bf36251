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


class Photo(NamedTuple):
    hr: Path
    lr: Path | None
    """None: LR is made from HR."""


class PhotoSet(NamedTuple):
    """The photographs of one folder."""

    photos: list[Photo]
    scales: tuple[int, ...]
    """Scales for which LR images lie beside them; empty: the folder speaks of none."""


@dataclass(frozen=True)
class PhotoFile:
    """A photograph in files, read by the worker that scores it."""

    set: str
    name: str
    photo: Photo
    scale: int
    with_details: bool = False

    def read(self) -> tuple[str, Uint8Image, Uint8Image]:
        """Name, LR (h,w,3), HR (s*h,s*w,3), cropped to a multiple of the scale. Errors: ImageError."""
        hr = np.ascontiguousarray(modcrop(read_image(self.photo.hr), self.scale))
        if self.photo.lr is None:
            return self.name, matlab_downscale(hr, self.scale), hr
        lr = read_image(self.photo.lr)
        height, width = (side // self.scale for side in hr.shape[:2])
        if lr.shape[:2] != (height, width):
            raise ImageError(
                self.photo.lr,
                f"{lr.shape[0]}x{lr.shape[1]} pixels (HxW)",
                f"as x{self.scale} LR of {self.photo.hr} it must have {height}x{width}: take the right one",
            )
        return self.name, lr, hr


def named_folders(entries: Sequence[str]) -> dict[str, Path]:
    """`FOLDER` or `NAME=FOLDER` -> name of a set -> its folder. Errors: ConfigError."""
    folders: dict[str, Path] = {}
    for entry in entries:
        name, folder = named_set(entry)
        path = Path(folder)
        if name in folders:
            raise ConfigError(f"--data: two sets are called {name!r}; name one of them: NAME={folder}")
        if not path.exists():
            beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
            close = nearest(path.name, beside)
            raise ConfigError(f"--data: {folder!r} does not exist; expected a folder of photographs.{close}")
        folders[name] = path
    return folders


def scales_of_models(of_models: Mapping[str, int], asked: int | None) -> list[int]:
    """The scales of all models, file -> scale; without a model the one asked for by `--scale`, or none.

    Errors: ConfigError where `asked` is not that of a model.
    """
    for file, scale in of_models.items():
        if asked not in (None, scale):
            raise ConfigError(f"--scale {asked}: {file} enlarges {scale} times; leave --scale out, models know theirs")
    return sorted({*of_models.values(), *([] if asked is None else [asked])})


def scale_of_data(of_sets: Mapping[str, Sequence[int]]) -> int:
    """The one scale that the sets (name -> scales of its LR images) speak of. Errors: ConfigError."""
    every = {scale for scales in of_sets.values() for scale in scales}
    if len(every) == 1:
        return every.pop()
    said = "; ".join(f"{name}: {', '.join(f'x{s}' for s in scales)}" for name, scales in of_sets.items() if scales)
    raise ConfigError(
        "the scale is not known, because bicubic has none of its own and the data "
        f"{f'has several ({said})' if every else 'says none'}; give --scale"
    )


def photos_of(folders: Mapping[str, Path], scales: Sequence[int], extra: Sequence[Extra]) -> list[PhotoFile]:
    """Every photograph of every set at every scale.

    Errors: ImageError for a file that has no image header or is too small, ValueError for a folder without images.
    """
    window = VGG_WINDOW if any(name in PERCEPTUAL for name in extra) else SSIM_WINDOW
    files: list[PhotoFile] = []
    for set_name, folder in folders.items():
        for scale in scales:
            photos = find_photos(folder, scale).photos
            root = os.path.commonpath([photo.hr.parent for photo in photos])
            # Cropped to a multiple of the scale, then shaved by the scale on each side.
            least = -(-(window + 2 * scale) // scale) * scale
            for photo in photos:
                height, width = _image_size(photo.hr)
                if min(height, width) < least:
                    raise ImageError(
                        photo.hr,
                        f"{height}x{width} pixels (HxW)",
                        f"scores at x{scale} need at least {least}x{least}: take it out of the folder",
                    )
                files.append(PhotoFile(set_name, photo.hr.relative_to(root).as_posix(), photo, scale))
    return files


def find_photos(folder: Path, scale: int | None = None) -> PhotoSet:
    """A plain folder or image file, or a folder `HR` (or the one that holds it) with `LR_bicubic/X4` beside it.

    LR is made from HR at any `scale`, which is what those folders hold. Errors: ValueError.
    """
    hr = folder / "HR" if (folder / "HR").is_dir() else folder
    beside = hr.parent / "LR_bicubic"
    names = [path.name for path in beside.iterdir()] if hr.name == "HR" and beside.is_dir() else []
    scales = tuple(sorted(int(name[1:]) for name in names if re.fullmatch(r"X\d+", name)))
    return PhotoSet([Photo(path, None) for path in list_images(hr)], scales)


def _image_size(path: Path) -> tuple[int, int]:
    """(height, width) as the header of the file says, without decoding it. Errors: ImageError."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them stumble over
        found = f"not a readable image ({type(error).__name__}: {error}; {os.path.getsize(path)} bytes)"
        raise ImageError(path, found, "restore it from its source, or take it out of the folder") from error
