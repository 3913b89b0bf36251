"""What all stages of one launch share: configuration, output folder, images, cluster, screen, tracking."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from mtkd_dist.config.tree import Config, TrainingConfig
from mtkd_dist.data import ImageStore, Plan, build_store, demo_photos, list_images
from mtkd_dist.pools.placement import Layout, LayoutError, Resources, plan_layout
from mtkd_dist.stages.check import named_set
from mtkd_dist.stages.teacher_spec import parse_teachers
from mtkd_dist.tracking.tracker import Tracker

OBJECT_STORE_SHARE = 0.8
"""Part of Ray's object store that waiting answers may fill."""
SSIM_WINDOW = 11
"""Smallest side that SSIM is defined for; test images also lose a border of `scale` on each side."""


def say(console: Console, text: str) -> None:
    """A line for the screen, and for the log: whoever reads the log later wants to see both in their order."""
    logging.getLogger("mtkd_dist").info(text)
    console.print(text, highlight=False, markup=False)


@dataclass
class Run:
    config: Config
    output: Path
    console: Console
    tracker: Tracker
    resources: Resources
    images: ImageStore
    """Training photographs."""
    validation: ImageStore | None
    """Held-out photographs by which a training is watched; never those of a test set. None: none are held out."""
    sets: dict[str, ImageStore]
    """Name of a test set -> its photographs."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of the stages that ran, in their order."""

    def say(self, text: str) -> None:
        """A line for the screen, and for the log."""
        say(self.console, text)

    def plan(self, training: TrainingConfig) -> Plan:
        return Plan(
            seed=self.config.seed,
            dataset_digest=self.images.digest,
            lr_sizes=tuple(self.images.lr_sizes),
            batch_size=training.batch_size,
            patch=training.patch,
        )


def layout_of(config: Config, resources: Resources, training: TrainingConfig, needs_teachers: bool) -> Layout:
    """The pools of one stage. Errors: LayoutError."""
    return plan_layout(
        resources,
        needs_teachers=needs_teachers,
        slots_per_step=training.batch_size // config.link.slot_size,
        num_gpus=config.num_gpus,
        teacher_gpus=config.teacher_gpus,
        student_gpus=config.student_gpus,
        teacher_workers=config.cluster.teacher_workers,
        student_workers=config.cluster.student_workers,
    )


def check_layouts(config: Config, resources: Resources) -> None:
    """Refuse a split of the cluster that some stage could not use. Errors: LayoutError."""
    room = int(OBJECT_STORE_SHARE * resources.object_store_bytes)
    if config.link.max_bytes > room:
        raise LayoutError(
            f"link.max_bytes: {config.link.max_bytes} is more than {room}, {OBJECT_STORE_SHARE:.0%} of the cluster's "
            "object store, beyond which Ray writes answers to disk; lower it"
        )
    layout_of(config, resources, config.teacher_training, False)
    layout_of(config, resources, config.aggregate, True)
    layout_of(config, resources, config.distil, True)


class Photos(NamedTuple):
    """The photographs of a run, decoded or not."""

    train: list[Path]
    validation: list[Path]
    """Put aside from the training photographs; may be empty."""
    sets: dict[str, list[Path]]
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
    photos = split_photos(config)
    cache = Path(config.images.cache) if config.images.cache else output / "images"
    trains_teachers = any(spec.network is not None for spec in parse_teachers(config.teachers))
    trainings = [config.aggregate, config.distil] + ([config.teacher_training] if trains_teachers else [])
    largest_patch = max(training.patch for training in trainings)
    scored = SSIM_WINDOW + 2 * config.scale
    needed = {"train": (photos.train, largest_patch * config.scale)}
    needed |= {"validation": (photos.validation, scored)} if photos.validation else {}
    needed |= {f"test-{name}": (of_set, scored) for name, of_set in photos.sets.items()}
    stores: dict[str, ImageStore] = {}
    for name, (files, min_size) in needed.items():
        tell(f"images  {name}: reading {len(files)} photographs")
        stores[name] = build_store(
            files,
            config.scale,
            cache / f"{name}-x{config.scale}",
            on_bad=config.images.on_bad,
            min_size=min_size,
            workers=min(8, os.cpu_count() or 1),
        )
        tell(f"images  {name}: {len(stores[name])} ready, x{config.scale}")
        if stores[name].skipped:
            listed = "; ".join(f"{Path(path).name}: {why}" for path, why in stores[name].skipped[:3])
            more = "; ..." if len(stores[name].skipped) > 3 else ""
            tell(f"images  {name}: {len(stores[name].skipped)} left out ({listed}{more})")
    return Stores(stores["train"], stores.get("validation"), {name: stores[f"test-{name}"] for name in photos.sets})


def split_photos(config: Config) -> Photos:
    """Which photographs are trained on, watched, and scored.

    A share of the training photographs is put aside for validation: those whose names hash smallest, so that adding
    photographs moves few from one side to the other. Without `test` they are scored too, as the set "held-out".
    """
    train: list[Path] = []
    for entry in config.data:
        train += demo_photos().train if entry == "demo" else list_images(Path(entry))
    sets: dict[str, list[Path]] = {}
    for entry in config.test:
        if entry == "demo":
            sets["demo"] = demo_photos().held_out
        else:
            name, folder = named_set(entry)
            sets[name] = list_images(Path(folder))
    train, validation = _hold_out(train, config.images.held_out)
    if not sets:
        if not validation:
            raise ValueError(
                f"data: {len(train)} photograph(s) and images.held_out={config.images.held_out:g} leave none to score "
                "on; give more, or name a folder to score on (--test)"
            )
        sets["held-out"] = validation
    shared = {p.resolve() for p in train + validation} & {
        p.resolve() for entry in config.test for p in _of(entry, sets)
    }
    if shared:
        raise ValueError(f"test: {len(shared)} photograph(s) are also in data, such as {min(shared)}; score on others")
    return Photos(train, validation, sets)


def _hold_out(photos: list[Path], share: float) -> tuple[list[Path], list[Path]]:
    count = max(1, round(share * len(photos))) if share > 0 else 0
    if count >= len(photos):
        return photos, []
    aside = set(sorted(photos, key=lambda path: hashlib.sha256(path.name.encode()).digest())[:count])
    return [path for path in photos if path not in aside], [path for path in photos if path in aside]


def _of(entry: str, sets: dict[str, list[Path]]) -> list[Path]:
    return sets[entry if entry == "demo" else named_set(entry)[0]]
