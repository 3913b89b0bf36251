"""What all stages of one launch share: configuration, output folder, images, cluster, screen, tracking."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from torch import Tensor

from mtkd_dist.config.tree import Config, TrainingConfig
from mtkd_dist.data import ImageStore, Plan
from mtkd_dist.models import aggregator_path
from mtkd_dist.pools.placement import Layout, LayoutError, Resources, plan_layout
from mtkd_dist.pools.render import Rendering
from mtkd_dist.stages.distil_method import distil_method, needs_aggregator
from mtkd_dist.tracking.tracker import Tracker

if TYPE_CHECKING:
    from mtkd_dist.stages.training import Training

OBJECT_STORE_SHARE = 0.8
"""Part of Ray's object store that waiting answers may fill."""


def say(console: Console, text: str) -> None:
    """A line for the screen, and for the log: whoever reads the log later wants to see both in their order."""
    logging.getLogger("mtkd_dist").info(text)
    console.print(text, highlight=False, markup=False)


class Engine(Protocol):
    """Who trains and renders in the place of the pools. What is done before and after is the stages' own: what is
    skipped, where it goes on, what it leaves."""

    def train(self, run: Run, training: Training, checkpoints: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train to the end, going on from the newest checkpoint in the folder `checkpoints`.

        Returns the weights on the CPU, and what the manifest is to say of the course.
        """
        ...

    def render(self, renderings: Sequence[Rendering]) -> Iterator[tuple[str, int]]:
        """As `mtkd_dist.pools.render.render`."""
        ...


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
    limits: dict[str, str] = field(default_factory=dict)
    """What limited the stages that ran, and what to change: a sentence each."""
    engine: Engine | None = None
    """None: the pools of the cluster."""
    aggregate_outputs: Path | None = None
    """Folder of the images that the aggregator makes; None: where those of the teachers are."""

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
    layout = plan_layout(
        resources,
        needs_teachers=needs_teachers,
        slots_per_step=training.batch_size // config.link.slot_size,
        num_gpus=config.num_gpus,
        teacher_gpus=config.teacher_gpus,
        student_gpus=config.student_gpus,
        teacher_workers=config.cluster.teacher_workers,
        student_workers=config.cluster.student_workers,
    )
    least = config.cluster.min_students
    if least is not None and least > layout.students.workers:
        raise LayoutError(
            f"--cluster.min-students {least}: the student pool has {layout.students.workers}; lower it, or ask for "
            "more (--student-gpus, --cluster.student-workers)"
        )
    return layout


def check_layouts(config: Config, resources: Resources) -> None:
    """Refuse a split of the cluster that some stage could not use. Errors: LayoutError."""
    room = int(OBJECT_STORE_SHARE * resources.object_store_bytes)
    if config.link.max_bytes > room:
        raise LayoutError(
            f"link.max_bytes: {config.link.max_bytes} is more than {room}, {OBJECT_STORE_SHARE:.0%} of the cluster's "
            "object store, beyond which Ray writes answers to disk; lower it"
        )
    layout_of(config, resources, config.teacher_training, False)
    # With auto it is known later whether there will be a teacher pool.
    for pool in {"live": [True], "cached": [False], "auto": [True, False]}[config.teacher_outputs]:
        if needs_aggregator(config) and aggregator_path(config.aggregator) is None:
            layout_of(config, resources, config.aggregate, pool)
        layout_of(config, resources, config.distil, pool and distil_method(config).needs_teachers)
