"""Population-based training of the learning rate: the target's training in parts, and what goes from trial to trial.

A trial that is copied goes on from the donor's checkpoint with the rates that it was trained with so far, so that its
weights are those of one training with all these `rates` from the beginning.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.one_process import SCORES, scores_in
from mtkd_dist.stages.manifest import write_json
from mtkd_dist.train.checkpoints import BEST, Checkpoints

RATES = "rates.json"
"""In the folder that is handed over, beside a checkpoint at the end of a part: the rates of the parts until there."""


def in_parts(training: TrainingConfig, parts: int, done: Sequence[float]) -> TrainingConfig:
    """The training whose first parts had the rates `done`, and whose others have its learning rate.

    At the end of each part at least, it is scored and leaves a checkpoint.
    Errors: ValueError where its steps have no so many equal parts, or fewer than are done.
    """
    part, rest = divmod(training.steps, parts)
    if rest or len(done) > parts:
        raise ValueError(
            f"pbt.parts: {training.steps} steps cannot be cut into {parts} equal parts, of which {len(done)} are done; "
            "expected a divisor of the target's steps"
        )

    def dividing(every: int) -> int:
        return every if every and part % every == 0 else part

    return dataclasses.replace(
        training,
        rates=[*done, *[training.learning_rate] * (parts - len(done))],
        validate_every=dividing(training.validate_every),
        checkpoint_every=dividing(training.checkpoint_every),
    )


def handed_step(folder: Path) -> int:
    """Steps that the training in a folder that was handed over has made. Errors: ValueError."""
    steps = Checkpoints(folder).steps()
    if len(steps) != 1:
        raise ValueError(f"{folder} was handed over with the checkpoints of steps {steps}; expected one checkpoint")
    return steps[0]


def handed_rates(folder: Path) -> list[float]:
    """Of the parts that are done."""
    return [float(rate) for rate in json.loads((folder / RATES).read_text())]


def hand_over(checkpoints: Path, step: int, rates: Sequence[float], folder: Path) -> bool:
    """Put the checkpoint after `step` steps into `folder`, with rates, scores and the best weights until there.

    False where it is not there any more.
    """
    try:
        shutil.copyfile(Checkpoints(checkpoints).path(step), Checkpoints(folder).path(step))
    except FileNotFoundError:
        return False
    if (checkpoints / BEST).exists():
        shutil.copyfile(checkpoints / BEST, folder / BEST)
    write_json(folder / RATES, list(rates))
    write_json(folder / SCORES, [record for record in scores_in(checkpoints) if record["step"] <= step])
    return True


def take_over(folder: Path, checkpoints: Path) -> None:
    """Let the training in `checkpoints` go on from what was handed over in `folder`, unless it is further by itself."""
    step = handed_step(folder)
    if max(Checkpoints(checkpoints).steps(), default=0) >= step:
        return
    for path in (folder / SCORES, folder / BEST, Checkpoints(folder).path(step)):
        if path.exists():
            # Whole or not at all; the checkpoint last, which is what counts.
            shutil.copyfile(path, checkpoints / f".{path.name}.tmp")
            (checkpoints / f".{path.name}.tmp").replace(checkpoints / path.name)
