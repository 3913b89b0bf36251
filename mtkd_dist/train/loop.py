"""The training loop of one rank, top to bottom. Plain torch: Ray enters only through the functions it is given."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.methods import Losses, Method
from mtkd_dist.pools.clock import PoolClock
from mtkd_dist.train.source import Prefetcher, Source
from mtkd_dist.train.state import TrainState, seed_step

FLUSH_STEPS = 10
"""Losses are read back from the device and posted this often: reading them stops a GPU."""


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the parts of the loss."""


@dataclass
class Recorder:
    """Collects losses on the device until they are read, as one plain record for each step."""

    _steps: list[tuple[int, float, list[str]]] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)

    def add(self, step: int, learning_rate: float, losses: Losses) -> None:
        self._steps.append((step, learning_rate, ["loss", *losses.parts]))
        self._values.append(torch.stack([losses.total, *losses.parts.values()]).detach())

    def read(self) -> list[dict[str, Any]]:
        """Records of the steps since the last call; waits for the device. Errors: NonFiniteLoss."""
        rows = torch.stack(self._values).tolist()
        records = []
        for (step, learning_rate, names), row in zip(self._steps, rows, strict=True):
            losses = dict(zip(names, row, strict=True))
            if not all(map(math.isfinite, row)):
                raise NonFiniteLoss(
                    f"the loss is not finite at step {step}: {losses}; lower the learning rate ({learning_rate:g}), "
                    "or set clip_grad"
                )
            records.append({"step": step, "learning_rate": learning_rate, **losses})
        self._steps.clear()
        self._values.clear()
        return records


def train(
    state: TrainState,
    network: nn.Module,
    method: Method,
    source: Source,
    config: TrainingConfig,
    *,
    seed: int,
    rank: int,
    checkpoint: Callable[[], None],
    post: Callable[[list[dict[str, Any]]], None],
) -> None:
    """Train from `state.step` to `config.steps`.

    Args:
        network: `state.model`, or its DDP wrapper; only it is in DDP, never a teacher.
        checkpoint: called on every rank every `checkpoint_every` steps and at the end.
        post: takes records {"step", "learning_rate", "loss", parts...}; the last of a flush also has
            "images_per_second" (all ranks together) and "students" (PoolShares of this rank).
    """
    recorder, clock = Recorder(), PoolClock()
    flushed, flushed_step = time.perf_counter(), state.step
    state.model.train()
    ready = time.perf_counter()
    for step, batch in Prefetcher(source, state.step, config.steps):
        began = time.perf_counter()
        seed_step(seed, step, rank)
        losses = method.loss(network, batch)
        state.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        if config.clip_grad > 0:
            nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad)
        learning_rate = state.learning_rate
        state.optimizer.step()
        state.advance()
        source.done(step)
        recorder.add(step, learning_rate, losses)
        saves = state.step % config.checkpoint_every == 0 or state.step == config.steps
        # Reading losses waits for the device, so the time belongs to the work; and no NaN gets into a checkpoint.
        records = recorder.read() if saves or state.step % FLUSH_STEPS == 0 else []
        worked = time.perf_counter()
        clock.add(starved=began - ready, working=worked - began)
        if records:
            rate = (state.step - flushed_step) * config.batch_size / (worked - flushed)
            post([*records[:-1], records[-1] | {"images_per_second": rate, "students": clock.shares()}])
            flushed, flushed_step = worked, state.step
        if saves:
            checkpoint()
        ready = time.perf_counter()
        clock.add(held_back=ready - worked)
