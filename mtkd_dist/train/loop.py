"""The training loop of one rank, top to bottom. Plain torch: Ray enters only through the functions it is given."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.methods import Batch, Losses, Method
from mtkd_dist.pools.clock import PoolClock
from mtkd_dist.pools.precision import Autocast, compute_dtype
from mtkd_dist.train.nonfinite import NonFiniteLoss, explain, losses_alone
from mtkd_dist.train.source import Prefetcher, Source
from mtkd_dist.train.state import TrainState, seed_step

POST_STEPS = 10
"""Records are posted this often."""


class Reading:
    """The numbers of one step on their way from the device, and the batch that they came from."""

    def __init__(
        self,
        step: int,
        waited_seconds: float,
        learning_rate: float,
        losses: Losses,
        gradient_norm: torch.Tensor,
        batch: Batch,
    ):
        self.step = step
        self.waited_seconds = waited_seconds
        self.learning_rate = learning_rate
        self.batch = batch
        self._names = ["loss", *losses.parts, "gradient_norm"]
        values = torch.stack([losses.total, *losses.parts.values(), gradient_norm]).detach()
        self._values = values.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def values(self) -> dict[str, float]:
        """By name; waits for the device to have done this step, and for nothing that was queued after it."""
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))


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
) -> None:
    """Train from `state.step` to `config.steps`.

    Args:
        network: `state.model`, or its DDP wrapper; only it is in DDP, never a teacher.
        consumed: called after every optimizer step with its number, the batch's checks and the slots that were skipped.
        checkpoint: called on every rank every `checkpoint_every` steps and at the end.
        validate: the same for `validate_every`, just before; and where training goes on from such a step, because
            whoever stopped it may have stopped that validation too.
        post: takes records {"step", "learning_rate", "wait_seconds", "loss", parts..., "gradient_norm"}; the last of a
            posting also has "images_per_second" (all ranks together), "students" (PoolShares of this rank) and what
            these are shares of: "so_far" {"seconds", "images"} since this call (images of all ranks together).

    Errors: NonFiniteLoss, on all ranks at the same step.
    """
    dtype = compute_dtype(config.precision, next(state.model.parameters()).device)
    student = Autocast(network, dtype)
    readings: deque[Reading] = deque()
    records: list[dict[str, Any]] = []
    clock = PoolClock()
    first = state.step
    posted = time.perf_counter()
    state.model.train()
    if state.step and _due(state.step, config.validate_every, config.steps):
        validate()
    ready = time.perf_counter()
    for step, batch in Prefetcher(source, state.step, config.steps):
        began = time.perf_counter()
        seed_step(seed, step, rank)
        losses = method.loss(student, batch)
        state.optimizer.zero_grad(set_to_none=True)
        # DDP takes the mean over ranks, which is that over samples only where all have equally many.
        weight = len(batch.lr) * world_size / config.batch_size
        # The gradient is NaN where the loss is not finite: abs() hides a NaN from the gradient, and it is the gradient
        # by which the other ranks hear of it.
        losses.total.backward(weight + 0 * losses.total.detach())
        gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
        gradient_norm = nn.utils.get_total_norm(gradients)
        if config.clip_grad:
            nn.utils.clip_grads_with_norm_(state.model.parameters(), config.clip_grad, gradient_norm)
        learning_rate = state.learning_rate
        state.update(gradient_norm)
        consumed(step, batch.checks, source.share.skipped.get(step, ()))
        source.done(step)
        readings.append(Reading(step, began - ready, learning_rate, losses, gradient_norm, batch))
        validates = _due(state.step, config.validate_every, config.steps)
        saves = _due(state.step, config.checkpoint_every, config.steps)
        # One step behind, the device always has the next one to do while this waits.
        try:
            while len(readings) > (0 if saves or validates else 1):
                records.append(_read(readings.popleft(), Autocast(state.model, dtype), method, source))
        except NonFiniteLoss:
            post(records)  # the course up to here
            raise
        worked = time.perf_counter()
        clock.add(starved=began - ready, working=worked - began)
        if records and (saves or validates or state.step % POST_STEPS == 0):
            rate = len(records) * config.batch_size / (worked - posted)
            so_far = {"seconds": sum(clock.seconds.values()), "images": (state.step - first) * config.batch_size}
            post(
                [
                    *records[:-1],
                    records[-1] | {"images_per_second": rate, "students": clock.shares(), "so_far": so_far},
                ]
            )
            records, posted = [], worked
        if validates:
            validate()
        if saves:
            checkpoint()
        ready = time.perf_counter()
        clock.add(held_back=ready - worked)


def _due(step: int, every: int, last: int) -> bool:
    return every > 0 and (step % every == 0 or step == last)


def _read(reading: Reading, student: nn.Module, method: Method, source: Source) -> dict[str, Any]:
    """The step as a record. Errors: NonFiniteLoss."""
    values = reading.values()
    if not all(map(math.isfinite, values.values())):
        alone = losses_alone(student, method, reading.batch)
        raise explain(reading.step, values, reading.learning_rate, source.share.describe(reading.step), alone)
    return {
        "step": reading.step,
        "learning_rate": reading.learning_rate,
        "wait_seconds": reading.waited_seconds,
        **values,
    }
