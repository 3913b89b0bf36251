"""What all cells of a comparison share: made once by its driver, as plain data that travels to every one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtkd_dist.config.tree import Config
from mtkd_dist.models import aggregator_path
from mtkd_dist.pools.evaluate import StoredPhoto
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.render import arithmetic_here
from mtkd_dist.stages.answers import outputs_folder
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.train.stopping import nobody_asks


@dataclass(frozen=True)
class Shared:
    config: Config
    """Of which cells differ by method, student and seed; its paths are absolute."""
    pool: PoolSize
    """What each cell reserves."""
    output: Path
    images: Path
    """Folder of the `ImageStore` that is trained on."""
    validation: Path | None
    """Folder of that by which trainings are watched."""
    photos: tuple[StoredPhoto, ...]
    """Which are scored: all photographs of all test sets."""
    sets: dict[str, str]
    """Name of each test set -> digest of its photographs."""
    teachers: ReadyTeachers
    asked_to_stop: Callable[[], bool] = nobody_asks
    """Whether cells are to save and end."""


def share(run: Run, teachers: ReadyTeachers, pool: PoolSize, asked_to_stop: Callable[[], bool] = nobody_asks) -> Shared:
    given = aggregator_path(run.config.aggregator)
    return Shared(
        config=dataclasses.replace(
            run.config,
            output=str(run.output),
            aggregator=run.config.aggregator if given is None else str(given.resolve()),
            # Cells read what the driver rendered, whatever they would take "auto" for.
            teacher_precision=arithmetic_here(run.config.teacher_precision),
            answers=dataclasses.replace(run.config.answers, folder=str(outputs_folder(run))),
        ),
        pool=pool,
        output=run.output,
        images=run.images.folder.resolve(),
        validation=run.validation.folder.resolve() if run.validation is not None else None,
        photos=tuple(
            StoredPhoto(name, store.folder.resolve(), i, store.scale, with_details=False)
            for name, store in run.sets.items()
            for i in range(len(store))
        ),
        sets={name: store.digest for name, store in run.sets.items()},
        teachers=teachers,
        asked_to_stop=asked_to_stop,
    )
