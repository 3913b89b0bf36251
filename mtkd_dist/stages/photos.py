"""Which photographs a run trains on, is watched by and is scored on, and their decoding."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mtkd_dist.config.load import nearest
from mtkd_dist.config.tree import Config
from mtkd_dist.data import ImageStore, Photo, PhotoSet, build_store, demo_photos, find_photos
from mtkd_dist.metrics import SSIM_WINDOW
from mtkd_dist.models import aggregator_path
from mtkd_dist.stages.check import named_set
from mtkd_dist.stages.teacher_spec import parse_teachers

_SUB_IMAGE = re.compile(r"_s\d+(?=\.\w+$)")  # 0001_s002.png is cut from 0001.png


class Split(NamedTuple):
    """The photographs of a run."""

    train: list[Photo]
    validation: list[Photo]
    """A part of the data set that is made for it, or else put aside from the training photographs; may be empty."""
    sets: dict[str, list[Photo]]
    """Name of a test set -> its photographs."""


class Stores(NamedTuple):
    """The same, decoded."""

    train: ImageStore
    validation: ImageStore | None
    sets: dict[str, ImageStore]


def prepare_images(config: Config, output: Path, tell: Callable[[str], None]) -> Stores:
    """Decode training, validation and test photographs once. Those that are left out are counted and named in `tell`.

    Errors: ImageError or ValueError that names the photograph.
    """
    split = split_photos(config, tell)
    cache = Path(config.images.cache) if config.images.cache else output / "images"
    trains_teachers = any(spec.network is not None for spec in parse_teachers(config.teachers))
    trainings = [config.distil] + ([config.teacher_training] if trains_teachers else [])
    trainings += [] if aggregator_path(config.aggregator) else [config.aggregate]
    largest_patch = max(training.patch for training in trainings)
    # Test images also lose a border of `scale` on each side.
    scored = SSIM_WINDOW + 2 * config.scale
    needed = {"train": (split.train, largest_patch * config.scale)}
    needed |= {"validation": (split.validation, scored)} if split.validation else {}
    needed |= {f"test-{name}": (of_set, scored) for name, of_set in split.sets.items()}
    stores: dict[str, ImageStore] = {}
    for name, (photos, min_size) in needed.items():
        tell(f"images  {name}: reading {len(photos)} photographs")
        try:
            stores[name] = build_store(
                photos,
                config.scale,
                cache / f"{name}-x{config.scale}",
                on_bad=config.images.on_bad,
                min_size=min_size,
                workers=min(8, os.cpu_count() or 1),
            )
        except ValueError as error:
            if name != "validation" or config.images.on_bad != "skip":
                raise
            tell(f"images  validation: {error}; no training is watched")
            continue
        tell(f"images  {name}: {len(stores[name])} ready, x{config.scale}")
        if stores[name].skipped:
            listed = "; ".join(f"{Path(path).name}: {why}" for path, why in stores[name].skipped[:3])
            more = "; ..." if len(stores[name].skipped) > 3 else ""
            tell(f"images  {name}: {len(stores[name].skipped)} left out ({listed}{more})")
    return Stores(stores["train"], stores.get("validation"), {name: stores[f"test-{name}"] for name in split.sets})


def split_photos(config: Config, tell: Callable[[str], None]) -> Split:
    """Which photographs are trained on, watched, and scored. `tell` hears which layout each folder has.

    Validated is by the training photographs that `images.held_out_names` names; without names by the validation part
    that a data set brings with it, unless it is scored; else by a share of the training photographs: those whose names
    hash smallest, so that adding photographs moves few from one side to the other. Without `test` they are scored too,
    as the set "held-out".

    Errors: ImageError or ValueError that names the photograph, the folder or the key.
    """
    found = [(entry, _found(entry, config.scale, tell)) for entry in config.data]
    sets: dict[str, list[Photo]] = {}
    for entry in config.test:
        if entry == "demo":
            sets["demo"] = [Photo(str(path)) for path in demo_photos().held_out]
        else:
            name, folder = named_set(entry)
            sets[name] = _found(folder, config.scale, tell).photos
    scored = [photo for of_set in sets.values() for photo in of_set]
    train = [photo for _, photos in found for photo in photos.photos]
    brought = [photo for _, photos in found for photo in photos.validation]
    if _shared(brought, scored):
        tell("images  the validation part of data is among the test sets, so it is scored, and not watched by")
        brought = []
    if config.images.held_out_names:
        train, validation = _hold_out_names(found, config.images.held_out_names)
    elif brought:
        validation = brought
    else:
        train, validation = _hold_out_share(train, config.images.held_out)
    _refuse_shared("data", "trained on", train, "validated by", validation)
    _refuse_shared("test", "scored on", scored, "in data", train + validation)
    if not sets:
        if not validation:
            raise ValueError(
                f"data: {len(train)} photograph(s) and images.held_out={config.images.held_out:g} leave none to score "
                "on; give more, or name a folder to score on (--test)"
            )
        sets["held-out"] = validation
    return Split(train, validation, sets)


def _found(entry: str, scale: int, tell: Callable[[str], None]) -> PhotoSet:
    if entry == "demo":
        photos = demo_photos()
        train, validation = ([Photo(str(path)) for path in paths] for paths in (photos.train, photos.validation))
        return PhotoSet(train, "demo", (), validation)
    found = find_photos(entry, scale)
    paired = sum(photo.lr_file is not None for photo in found.photos)
    read = f"x{scale} LR read" + ("" if paired == len(found.photos) else f" for {paired}, made for the others")
    at_hand = f" (there is LR for {', '.join(f'x{s}' for s in found.scales)})" if found.scales else ""
    lr = read if paired else f"x{scale} LR made" + at_hand
    own = f"; {len(found.validation)} more to validate by" if found.validation else ""
    tell(f"images  {entry}: {found.layout}, {len(found.photos)} photographs, {lr}{own}")
    return found


def _hold_out_names(found: list[tuple[str, PhotoSet]], patterns: list[str]) -> tuple[list[Photo], list[Photo]]:
    """Those whose name, or path below their folder, matches one of the patterns go to the other side."""
    matchers = {pattern: re.compile(fnmatch.translate(pattern)) for pattern in patterns}
    unused = set(patterns)
    names: set[str] = set()
    train: list[Photo] = []
    validation: list[Photo] = []
    for entry, photos in found:
        top = os.path.abspath(entry) + os.sep
        for photo in photos.photos:
            texts = (os.path.basename(photo.hr_file), photo.hr_file.removeprefix(top))
            hits = {p for p, matcher in matchers.items() if any(matcher.fullmatch(text) for text in texts)}
            unused -= hits
            names.update(texts)
            (validation if hits else train).append(photo)
    if unused:
        pattern = min(unused)
        raise ValueError(
            f"images.held_out_names: {pattern!r} matches no photograph of data; expected a name or a pattern such as "
            f"'0801*'.{nearest(pattern, names)}"
        )
    if not train:
        raise ValueError(f"images.held_out_names: {patterns} match every photograph of data and leave none to train on")
    return train, validation


def _hold_out_share(photos: list[Photo], share: float) -> tuple[list[Photo], list[Photo]]:
    """Sub-images of one photograph stay together, so that no training photograph is seen in validation."""
    count = max(1, round(share * len(photos))) if share > 0 else 0
    sources: dict[str, list[Photo]] = {}
    for photo in photos:
        sources.setdefault(_SUB_IMAGE.sub("", photo.hr_file), []).append(photo)
    aside: set[Photo] = set()
    for source in sorted(sources, key=lambda path: hashlib.sha256(os.path.basename(path).encode()).digest()):
        if len(aside) >= count:
            break
        aside.update(sources[source])
    train = [photo for photo in photos if photo not in aside]
    return (train, [photo for photo in photos if photo in aside]) if train else (photos, [])


def _refuse_shared(key: str, use: str, photos: list[Photo], other_use: str, others: list[Photo]) -> None:
    if shared := _shared(photos, others):
        raise ValueError(
            f"{key}: {len(shared)} photograph(s) that are {use} are also {other_use}, such as {min(shared)}; give "
            "others, or choose those to validate by with images.held_out_names"
        )


def _shared(photos: list[Photo], others: list[Photo]) -> set[str]:
    return set(_real_files(photos)) & set(_real_files(others)) if photos and others else set()


def _real_files(photos: list[Photo]) -> Iterator[str]:
    """HR files with links resolved; by folder, as to resolve each of 85,000 files by itself takes a second."""
    folders: dict[str, tuple[str, set[str]]] = {}  # -> resolved, names of the links in it
    for photo in photos:
        folder, _, name = photo.hr_file.rpartition(os.sep)
        if folder not in folders:
            with os.scandir(folder) as entries:
                folders[folder] = os.path.realpath(folder), {entry.name for entry in entries if entry.is_symlink()}
        real, links = folders[folder]
        yield os.path.realpath(photo.hr_file) if name in links else f"{real}{os.sep}{name}"
