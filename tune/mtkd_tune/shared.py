"""What all trials of a sweep share: made once by its driver, as plain data that travels to every trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtkd_dist.config.tree import Config
from mtkd_dist.models import aggregator_path
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.render import arithmetic_here
from mtkd_dist.stages.answers import outputs_folder
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.train.live import LiveTeachers
from mtkd_dist.train.stopping import nobody_asks
from mtkd_tune.tree import SweepConfig


@dataclass(frozen=True)
class Shared:
    sweep: SweepConfig
    pool: PoolSize
    """What each trial reserves: one worker."""
    config: Config
    """Of which trials differ by what is searched; its paths are absolute."""
    output: Path
    """Folder of the sweep."""
    images: Path
    """Folder of the `ImageStore` that is trained on."""
    validation: Path
    """Folder of that by which trials are scored."""
    teachers: ReadyTeachers
    live: LiveTeachers | None = None
    """None: the teachers' images are rendered."""
    asked_to_stop: Callable[[], bool] = nobody_asks
    """Whether trials are to save and end."""

    @property
    def parts(self) -> int:
        """Of the target's training, each with a learning rate of its own; 0 without pbt."""
        return self.sweep.pbt.parts if self.sweep.scheduler == "pbt" else 0

    def trial_folder(self, name: str) -> Path:
        return self.output / "trials" / name

    def aggregator_folder(self, key: str) -> Path:
        return self.output / "aggregators" / key


def share(
    run: Run, teachers: ReadyTeachers, sweep: SweepConfig, pool: PoolSize, live: LiveTeachers | None = None
) -> Shared:
    """What trials need of the driver's `run`, whose output is the folder of the sweep.

    Errors: ValueError where no photograph is held out; whether there are enough is known only now.
    """
    given = aggregator_path(run.config.aggregator)
    if run.validation is None:
        raise ValueError(
            f"images.held_out: none of the {len(run.images)} photographs in data could be put aside to score trials "
            "by; give more of them, or name some in images.held_out_names"
        )
    weights, precision = run.config.student_weights, run.config.teacher_precision
    return Shared(
        sweep=sweep,
        pool=pool,
        config=dataclasses.replace(
            run.config,
            output=str(run.output),
            student_weights=weights if weights is None else str(Path(weights).resolve()),
            aggregator=run.config.aggregator if given is None else str(given.resolve()),
            # Trials read what the driver rendered, whatever they would take "auto" for.
            teacher_precision=arithmetic_here(precision) if live is None else precision,
            answers=dataclasses.replace(run.config.answers, folder=str(outputs_folder(run))),
        ),
        output=run.output,
        images=run.images.folder.resolve(),
        validation=run.validation.folder.resolve(),
        teachers=teachers,
        live=live,
    )
