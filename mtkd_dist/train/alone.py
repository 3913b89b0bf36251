"""One whole training in the calling process: the same loop, checkpoints, log and scores as in the pools, without Ray.

On a CPU it ends with the very weights that one worker of a student pool ends with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtkd_dist.pools.device import one_thread, pick_device, use_threads
from mtkd_dist.train.attempt import begin
from mtkd_dist.train.cached_source import source_of_files
from mtkd_dist.train.checkpoints import to_cpu
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.loop import due, train
from mtkd_dist.train.source import Share, Source
from mtkd_dist.train.stopping import Stopping, nobody_asks, saved_in
from mtkd_dist.train.validation import Validation, ValidationJob, best_weights

Sources = Callable[[int, Share, torch.device], Source]
"""(number of the attempt, what is taken of every step, where it is wanted) -> where the batches come from."""


def train_alone(
    job: StudentJob,
    folder: Path,
    validation: ValidationJob | None,
    validated: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
    source: Sources | None = None,
    post: Callable[[list[dict[str, Any]]], None] = lambda records: None,
    asked_to_stop: Callable[[], bool] = nobody_asks,
) -> dict[str, Tensor]:
    """Train to the end, going on from the newest checkpoint in `folder`; returns the resulting weights on the CPU.

    With `job.pool.threads` threads, on the first GPU that the process sees where `job.pool.gpus` is above 0.

    Args:
        validated: takes the record of each validation (`Validation.run`), once the weights that it belongs to are on
            disk where a checkpoint is due at the same step. Training waits for it.
        say: takes notes, such as a validation without a score: that costs the score, and not the training.
        source: who gives the batches; None: what lies in files.
        post: takes the records of the steps; see `mtkd_dist.train.loop.train`.
        asked_to_stop: looked at about twice a second.

    Errors: Saved where it was asked to stop before the end; NonFiniteLoss, CheckpointError, Superseded; TrainingFailed
    where the best weights are wanted and there are none; what `validated` raises.
    """
    training = job.training
    use_threads(job.pool.threads)
    device = pick_device(job.pool.gpus > 0)
    judge = None
    if validation is not None:
        with one_thread():
            judge = Validation(validation)
    state, attempt = begin(job, folder, 0, 1, device, say)
    share = Share(job.images, job.plan, job.slot_size, list(range(job.slots_per_step)))
    waiting: list[dict[str, Any]] = []

    def validate() -> None:
        if judge is None:
            return
        try:
            with one_thread():
                record = judge.run(state.step, {n: t.cpu().numpy() for n, t in state.result().items()})
        except ValueError as error:
            say(f"the validation after step {state.step} failed: {error}")
            return
        if state.step > attempt.start and due(state.step, training.checkpoint_every, training.steps):
            waiting.append(record)
        else:
            validated(record)

    def checkpoint() -> None:
        attempt.checkpoint(state)
        if waiting:
            attempt.written()
            validated(waiting.pop())

    try:
        train(
            state,
            state.model,
            job.method,
            source_of_files(job, share, device, say) if source is None else source(attempt.number, share, device),
            training,
            seed=job.seed,
            rank=0,
            world_size=1,
            consumed=attempt.consumed,
            checkpoint=checkpoint,
            validate=validate,
            post=post,
            stops=Stopping(state.step, asked_to_stop),
        )
        attempt.written()
        if state.step < training.steps:
            raise saved_in(folder, training.steps, say)
    finally:
        attempt.close()
    return best_weights(validation, folder) if training.result == "best" else to_cpu(state.result())
