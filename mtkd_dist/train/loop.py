"""The training loop of one rank, top to bottom. Plain torch: Ray enters only through the functions it is given."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.methods import Method
from mtkd_dist.models.precision import Autocast, compute_dtype
from mtkd_dist.train.records import Records
from mtkd_dist.train.source import Prefetcher, Source
from mtkd_dist.train.state import TrainState, seed_step
from mtkd_dist.train.students import clip_gradients, each, learn


def train(
    state: TrainState,
    network: nn.Module,
    method: Method,
    source: Source,
    config: TrainingConfig,
    *,
    seed: int,
    rank: int,
    world_size: int,
    consumed: Callable[[int, Sequence[int], Sequence[int]], None],
    checkpoint: Callable[[], None],
    validate: Callable[[], None],
    post: Callable[[list[dict[str, Any]]], None],
    stops: Callable[[int], bool] = lambda done: False,
) -> None:
    """Train from `state.step` to `config.steps`, or until it `stops`: the network, or several `Students` from the same
    batches.

    Args:
        network: `state.model`, or its DDP wrapper (of several students, that of each); only it is in DDP, never a
            teacher.
        consumed: called after every optimizer step with its number, the batch's checks and the slots that were skipped.
        checkpoint: called on every rank every `checkpoint_every` steps and at the end, also where that comes early.
        validate: the same for `validate_every`, just before; and where training goes on from such a step, because
            whoever stopped it may have stopped that validation too.
        post: takes records {"step", "learning_rate", "wait_seconds", "loss", parts..., "gradient_norm"}; of several
            students loss and norm are those of all together, and the parts are "NAME/loss" and "NAME/PART". The last
            of a posting also has "images_per_second" (all ranks together), "students" (PoolShares of this rank) and
            what these are shares of: "so_far" {"seconds", "images"} since this call (images of all ranks together).
        stops: asked after every step, with the steps that are done, whether to end there; the same on all ranks.

    Errors: NonFiniteLoss, on all ranks at the same step.
    """
    dtype = compute_dtype(config.precision, next(state.model.parameters()).device)
    students = {name: Autocast(student, dtype) for name, student in each(network).items()}
    plain = {name: Autocast(student, dtype) for name, student in each(state.model).items()}
    records = Records(plain, method, source, config.batch_size, post)
    state.model.train()
    if state.step and due(state.step, config.validate_every, config.steps):
        validate()
    records.ready()
    for step, batch in Prefetcher(source, state.step, config.steps):
        records.begin()
        state.optimizer.zero_grad(set_to_none=True)
        # DDP takes the mean over ranks, which is that over samples only where all have equally many.
        weight = len(batch.lr) * world_size / config.batch_size
        losses = learn(students, method, batch, weight, functools.partial(seed_step, seed, step, rank))
        gradient_norm = clip_gradients(state.model, config.clip_grad)
        learning_rate = state.learning_rate
        state.update(gradient_norm)
        consumed(step, batch.checks, source.share.skipped.get(step, ()))
        records.add(step, learning_rate, losses, gradient_norm, batch)
        validates = due(state.step, config.validate_every, config.steps)
        stopped = stops(state.step)
        saves = stopped or due(state.step, config.checkpoint_every, config.steps)
        records.end(step, flush=saves or validates)
        if validates:
            validate()
        if saves:
            checkpoint()
        if stopped:
            return
        records.ready()


def due(step: int, every: int, last: int) -> bool:
    """Whether what is done every `every` steps (0: never), and at the end, is done after `step` steps."""
    return every > 0 and (step % every == 0 or step == last)
