"""HR images and their LR images: which belong together, and at which scale."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtkd_dist.data.images import ImageError, image_files, image_size, read_image, scan_folder
from mtkd_dist.data.resize import matlab_downscale

Uint8Image = NDArray[np.uint8]

_META_INFO = re.compile(r"meta_info.*\.txt", re.IGNORECASE)
_META_INFO_LINE = re.compile(r"(?P<name>.+?)(\s+\(\d+,\s*\d+,\s*\d+\).*)?")  # name.png (h,w,c) [compression]


class Photo(NamedTuple):
    """One photograph. Its files are kept as text: 85,000 `Path` objects would take 0.4 s of every start."""

    hr_file: str
    lr_file: str | None = None
    """Its LR image; None: to be made from HR."""

    @property
    def hr(self) -> Path:
        return Path(self.hr_file)

    @property
    def lr(self) -> Path | None:
        return None if self.lr_file is None else Path(self.lr_file)


@dataclass(frozen=True)
class Part:
    """Photographs that share one HR folder."""

    layout: str
    hr_folder: str
    files: list[str]
    lr_folders: dict[int, str]
    """Scale -> folder, in which an image has the place that its HR image has in `hr_folder`."""
    meta_info: bool = False

    def text(self, scale: int | None) -> str:
        """For people: the layout, and where LR is read from."""
        lr = self.lr_folders.get(scale or 0)
        paired = "" if lr is None else " with " + os.path.relpath(lr, os.path.commonpath([lr, self.hr_folder]))
        return self.layout + paired + (" (meta_info)" if self.meta_info else "")


def scale_of_pair(hr_folder: str, hr: str, lr_folder: str) -> int:
    """What the sizes of an image and of its LR image say."""
    lr_images = {_key(file, lr_folder): file for file in image_files(lr_folder)}
    key = _key(hr, hr_folder)
    lr = next((lr_images[name] for name in (key, *(f"{key}x{s}" for s in range(2, 10))) if name in lr_images), None)
    if lr is None:
        raise _without_lr(hr, os.path.join(lr_folder, os.path.basename(hr)))
    hr_size, lr_size = image_size(hr), image_size(lr)
    scale = _scale_between(hr_size, lr_size)
    if scale is None:
        raise ImageError(
            lr,
            f"{_text(lr_size)} pixels, while its HR image {hr} has {_text(hr_size)}",
            "expected exactly 1/2, 1/3 or 1/4 of it on both sides",
        )
    return scale


def read_pair(photo: Photo, scale: int, min_size: int = 1) -> tuple[Uint8Image, Uint8Image]:
    """Decode one photograph: HR, cropped to a multiple of the scale, and LR from its file or made from HR.

    Errors: ImageError for HR smaller than ``min_size`` on a side, LR of another size than cropped HR / ``scale``, or a
    file that is no image.
    """
    whole = read_image(photo.hr)
    height, width = (side // scale * scale for side in whole.shape[:2])
    least = max(min_size, scale)
    if min(height, width) < least:
        raise ImageError(
            photo.hr,
            f"{height}x{width} pixels after the crop to a multiple of {scale}, fewer than {least} on a side",
            "take it out, or take a smaller patch",
        )
    hr = np.ascontiguousarray(whole[:height, :width])
    if photo.lr is None:
        return hr, matlab_downscale(hr, scale)
    lr = read_image(photo.lr)
    if lr.shape[:2] != (height // scale, width // scale):
        other = _scale_between(whole.shape[:2], lr.shape[:2])
        raise ImageError(
            photo.lr,
            f"{_text(lr.shape[:2])} pixels, while its HR image {photo.hr} has {_text(whole.shape[:2])}",
            f"expected {height // scale}x{width // scale} for x{scale}; "
            + (f"these sizes belong to x{other}" if other else "one of the two was cut or replaced"),
        )
    return hr, lr


def _scale_between(hr: tuple[int, int], lr: tuple[int, int]) -> int | None:
    """The whole factor between (height, width) of HR, cropped to a multiple of it, and of LR."""
    scale = round(hr[0] / lr[0])
    return scale if scale > 1 and (hr[0] // scale, hr[1] // scale) == lr else None


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def pair(part: Part, scale: int | None) -> list[Photo]:
    """Photographs of a part, with LR images where there are some for the scale: each image has a partner then."""
    folder = part.lr_folders.get(scale) if scale else None
    if folder is None:
        return [Photo(file) for file in part.files]
    lr_images = {_key(file, folder): file for file in image_files(folder)}
    photos, used = [], set()
    for hr in part.files:
        key = _key(hr, part.hr_folder)
        lr_key = f"{key}x{scale}" if f"{key}x{scale}" in lr_images else key
        if lr_key not in lr_images:
            raise _without_lr(hr, os.path.join(folder, f"{key}x{scale}{os.path.splitext(hr)[1]}"))
        if lr_key in used:
            raise ImageError(hr, f"a second HR image for {lr_images[lr_key]}", "expected one; take one of them out")
        used.add(lr_key)
        photos.append(Photo(hr, lr_images[lr_key]))
    if not part.meta_info and (left := lr_images.keys() - used):
        lr = lr_images[min(left)]
        expected = os.path.join(part.hr_folder, min(left).removesuffix(f"x{scale}") + os.path.splitext(lr)[1])
        raise ImageError(lr, "an LR image without its HR image", f"expected {expected}; restore it, or take both out")
    return photos


def _without_lr(hr: str, expected: str) -> ImageError:
    return ImageError(hr, "an HR image without its LR image", f"expected {expected}; restore it, or take both out")


def _key(file: str, folder: str) -> str:
    """Path below the folder without the suffix: what an HR and an LR image have in common."""
    return file[len(folder) + 1 :].rpartition(".")[0]


def listed_files(hr_folder: str, files: list[str]) -> list[str] | None:
    """The files that a meta_info lists, in its order; None where there is no such list."""
    parent, name = os.path.split(hr_folder)
    for place in (hr_folder, parent, os.path.join(parent, "meta_info")):
        lists = [file for file in scan_folder(place)[1] if _META_INFO.fullmatch(file)] if os.path.isdir(place) else []
        if lists:
            break
    else:
        return None
    path = os.path.join(place, lists[0])
    if len(lists) > 1:
        raise ValueError(f"{place}: {' and '.join(lists)} may say which photographs of {name} count; keep one of them")
    by_name = {file[len(hr_folder) + 1 :]: file for file in files}
    wanted = []
    for line in filter(None, map(str.strip, Path(path).read_text(encoding="utf-8").splitlines())):
        match = _META_INFO_LINE.fullmatch(line)
        entry = match["name"] if match else line
        file = by_name.get(entry) or by_name.get(entry.removeprefix(name + "/"))
        if file is None:
            found = f"lists {entry}, which is absent"
            raise ImageError(
                path, found, f"expected {os.path.join(hr_folder, entry)}; restore it, or take the line out"
            )
        wanted.append(file)
    if not wanted:
        raise ValueError(f"{path}: lists no photographs; write one name to a line, or take the file away")
    return wanted
