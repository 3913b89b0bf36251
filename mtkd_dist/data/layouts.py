"""Which photographs a folder holds: the data sets of the field are recognised by the names of their folders.

`_LAYOUTS` is the whole knowledge of names. Everything else is a plain folder: each image file under it is a photograph.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mtkd_dist.data.images import image_files, is_image_name, scan_folder
from mtkd_dist.data.pairs import Part, Photo, listed_files, pair, scale_of_pair


class PhotoSet(NamedTuple):
    """What :func:`find_photos` found."""

    photos: list[Photo]
    layout: str
    """For people: `photographs`, `DIV2K`, `HR with LR_bicubic/X4`."""
    scales: tuple[int, ...]
    """Scales for which LR images are at hand; empty: LR is made, for any scale."""
    validation: list[Photo]
    """The data set's own validation part, such as DIV2K_valid_HR; mostly empty."""


class _Layout(NamedTuple):
    """Names of folders, compared without regard to case."""

    name: str
    hr: str
    """Pattern of the HR folder's name."""
    lr: tuple[str, ...]
    """Where LR lies beside it; without {scale} the sizes of the first pair tell the scale."""
    meta_info: bool = False
    """A `meta_info*.txt` in, beside or in a folder `meta_info` beside the HR folder says which files count."""


_SET = r"(?P<stem>(?P<set>.+?)(?:_(?P<part>train|valid))?)_HR"  # DIV2K_train_HR, DIV2K_valid_HR, Flickr2K_HR, DF2K_HR
_LAYOUTS = (
    _Layout("{set}", _SET, ("{stem}_LR_bicubic/X{scale}",)),
    _Layout("BasicSR sub-images of {set}", _SET + "_sub", ("{stem}_LR_bicubic/X{scale}_sub",), meta_info=True),
    _Layout("HR", "HR", ("LR_bicubic/X{scale}", "X{scale}")),
    _Layout("BasicSR GT", "GT", ("LQ",), meta_info=True),
    _Layout("BasicSR GT", "GTmod12", ("LRbicx{scale}",)),
)
_SHARD = re.compile(r"\d{7}")  # LSDIR: 0001000/0000001.png
_SHARD_LR = ("LR_bicubic/X{scale}", "X{scale}")
_VALIDATION = re.compile(r"val(id)?\d*", re.IGNORECASE)  # beside or below an HR folder
_LR_NAME = re.compile(r"((.*_)?(LR|LQ)(_.*)?|LRbic.*|X[2-9](_sub)?)", re.IGNORECASE)
_PLAIN = "photographs"

_Found = tuple[list[Part], list[Part]]  # to train on, to validate by


def find_photos(folder: str | Path, scale: int | None = None) -> PhotoSet:
    """Find the photographs of a folder, paired with their LR images where it has them for the scale.

    Understood are DIV2K, Flickr2K and others of their naming (`NAME_HR` with `NAME_LR_bicubic/X4`), a folder of several
    of them, LSDIR (shards of 1000 under the folder or under `HR/train`), `HR` with `LR_bicubic/X4`, BasicSR's `GT` with
    `LQ`, its sub-images and its `meta_info*.txt`, each also by its HR folder alone; all else is a plain folder.

    Args:
        folder: such a folder, or one image file.
        scale: whole factor between HR and LR; None where it is not known yet, which pairs LR if it is there for one.

    Raises:
        ImageError: for an HR image without its LR image or the other way round, a file of meta_info that is absent, or
            GT and LQ whose sizes fit no whole scale.
        ValueError: for a missing folder, one without images, one that holds only LR images, or an LMDB.
        OSError: if a subfolder cannot be read.
    """
    top = os.path.abspath(folder)
    _refuse_lmdb(top)
    if os.path.isfile(top):
        return PhotoSet([Photo(top)], "one photograph", (), [])
    if not os.path.isdir(top):
        raise ValueError(f"no such folder or image file: {top}")
    train, validation = _search(top, set())
    if not train:
        image_files(top)  # refuses it with the reason
    plain = sorted(file for part in train if part.layout == _PLAIN for file in part.files)
    train = [part for part in train if part.layout != _PLAIN] + ([Part(_PLAIN, top, plain, {})] if plain else [])
    scales = tuple(sorted({s for part in train for s in part.lr_folders}))
    if scale is None and len(scales) == 1:
        scale = scales[0]
    return PhotoSet(
        [photo for part in train for photo in pair(part, scale)],
        " + ".join(dict.fromkeys(part.text(scale) for part in train)),
        scales,
        [photo for part in validation for photo in pair(part, scale)],
    )


def _search(folder: str, visited: set[str]) -> _Found:
    """The parts of a folder: of a data set, or else plain photographs here and whatever lies in the subfolders."""
    _refuse_lmdb(folder)
    real = os.path.realpath(folder)
    if real in visited:
        return [], []  # a link to a parent folder
    visited.add(real)
    parent, own_name = os.path.split(folder)
    if own := _match(own_name):
        beside = [match for name in scan_folder(parent)[0] if (match := _match(name))]
        return _data_set(parent, [own, *(match for match in beside if match.validates(own))])
    subfolders, files = scan_folder(folder)
    images = [os.path.join(folder, name) for name in files if is_image_name(name)]
    hr = [match for name in subfolders if (match := _match(name))]
    shards = [name for name in subfolders if _SHARD.fullmatch(name)]
    train, validation = _data_set(folder, hr)
    if shards:
        images += [file for name in shards for file in image_files(os.path.join(folder, name))]
        train.append(Part("LSDIR", folder, images, _lr_folders(folder, _SHARD_LR, {}, folder, images)))
    elif images and hr:
        raise _unclear(images[0], os.path.join(folder, hr[0].name))
    elif images:
        train.append(Part(_PLAIN, folder, images, {}))
    is_data_set = bool(hr or shards)
    for name in subfolders:
        path = os.path.join(folder, name)
        if name in shards or _match(name) or (is_data_set and (_LR_NAME.fullmatch(name) or name.endswith(".lmdb"))):
            continue
        if _LR_NAME.fullmatch(name):
            raise ValueError(
                f"{path}: has the name of a folder of LR images, but no folder of HR images lies beside it (expected "
                "HR, GT or NAME_HR); give the folder of HR images itself, or rename this one"
            )
        parts, of_validation = _search(path, visited)
        if is_data_set and _VALIDATION.fullmatch(name):
            validation += parts + of_validation
            continue
        if is_data_set and (plain := next((part for part in parts if part.layout == _PLAIN), None)):
            raise _unclear(plain.files[0], train[0].hr_folder)
        train += parts
        validation += of_validation
    return train, validation


def _unclear(plain: str, hr_folder: str) -> ValueError:
    return ValueError(
        f"{plain}: a photograph beside the data set of {hr_folder}, and it is not clear whether it is meant too; give "
        "the folders that are meant one by one"
    )


def _refuse_lmdb(path: str) -> None:
    if path.lower().endswith((".lmdb", ".mdb")) or os.path.isfile(os.path.join(path, "data.mdb")):
        raise ValueError(f"{path}: an LMDB database, which is not read; give the folder of images that it was made of")


class _Match(NamedTuple):
    """The name of an HR folder, and what the pattern of its layout found in it."""

    name: str
    layout: _Layout
    groups: dict[str, str]

    def part(self, part: str) -> bool:
        return self.groups.get("part", "").lower() == part

    def validates(self, other: _Match) -> bool:
        same_set = self.groups.get("set", "").lower() == other.groups.get("set", "").lower()
        return same_set and self.part("valid") and other.part("train")

    def is_cut_from(self, other: _Match) -> bool:
        return self.name.lower() == other.name.lower() + "_sub"


def _match(name: str) -> _Match | None:
    for layout in _LAYOUTS:
        if match := re.fullmatch(layout.hr, name, re.IGNORECASE):
            return _Match(name, layout, {key: value or "" for key, value in match.groupdict().items()})
    return None


def _data_set(folder: str, matches: list[_Match]) -> _Found:
    """The parts in those HR folders of a folder. Sub-images beside the photographs they were cut from do not count."""
    train: list[Part] = []
    validation: list[Part] = []
    for match in matches:
        if any(match.is_cut_from(other) for other in matches):
            continue
        into = validation if match.part("valid") and not all(other.part("valid") for other in matches) else train
        title = match.layout.name.format_map(match.groups)
        hr_folder = os.path.join(folder, match.name)
        subfolders, own_files = scan_folder(hr_folder)
        files = image_files(hr_folder)
        lr_folders = _lr_folders(folder, match.layout.lr, match.groups, hr_folder, files)
        is_split = "train" in subfolders and all(name == "train" or _VALIDATION.fullmatch(name) for name in subfolders)
        if is_split and not any(map(is_image_name, own_files)):  # LSDIR: HR/train, HR/val and X4/train, X4/val
            for name in subfolders:
                (train if name == "train" else validation).append(_subfolder(title, hr_folder, lr_folders, name))
            continue
        listed = listed_files(hr_folder, files) if match.layout.meta_info and into is train else None
        into.append(Part(title, hr_folder, files if listed is None else listed, lr_folders, listed is not None))
    return train, validation


def _subfolder(title: str, hr_folder: str, lr_folders: dict[int, str], name: str) -> Part:
    path = os.path.join(hr_folder, name)
    sharded = any(_SHARD.fullmatch(shard) for shard in scan_folder(path)[0])
    lr = {scale: os.path.join(lr_folder, name) for scale, lr_folder in lr_folders.items()}
    there = {scale: lr_folder for scale, lr_folder in lr.items() if os.path.isdir(lr_folder)}
    return Part("LSDIR" if sharded else title, path, image_files(path), there)


def _lr_folders(
    folder: str, templates: tuple[str, ...], groups: dict[str, str], hr_folder: str, hr_files: list[str]
) -> dict[int, str]:
    """Scale -> LR folder, for all scales that are at hand."""
    found: dict[int, str] = {}
    for template in templates:
        pattern = template.format(scale=r"(?P<scale>[2-9])", **{key: re.escape(value) for key, value in groups.items()})
        for path, match in _folders_like(folder, pattern.split("/")):
            scale = match.groupdict().get("scale") or scale_of_pair(hr_folder, hr_files[0], path)
            found.setdefault(int(scale), path)
    return found


def _folders_like(folder: str, patterns: list[str]) -> Iterator[tuple[str, re.Match[str]]]:
    """Subfolders whose path below the folder matches, one pattern for each level."""
    for name in scan_folder(folder)[0]:
        if match := re.fullmatch(patterns[0], name, re.IGNORECASE):
            path = os.path.join(folder, name)
            if patterns[1:]:
                yield from _folders_like(path, patterns[1:])
            else:
                yield path, match
