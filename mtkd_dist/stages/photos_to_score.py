"""`--data` of the evaluation command: which photographs make up a set, and the scale that their folder speaks of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtkd_dist.config.load import ConfigError, nearest
from mtkd_dist.data import ImageError, Photo, find_photos
from mtkd_dist.data.images import image_size
from mtkd_dist.data.pairs import read_pair
from mtkd_dist.metrics import SSIM_WINDOW, VGG_WINDOW
from mtkd_dist.pools.evaluate import PERCEPTUAL, Extra, Uint8Image
from mtkd_dist.stages.check import named_set


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
        hr, lr = read_pair(self.photo, self.scale)
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
                height, width = image_size(photo.hr)
                if min(height, width) < least:
                    raise ImageError(
                        photo.hr,
                        f"{height}x{width} pixels (HxW)",
                        f"scores at x{scale} need at least {least}x{least}: take it out of the folder",
                    )
                files.append(PhotoFile(set_name, photo.hr.relative_to(root).as_posix(), photo, scale))
    return files
