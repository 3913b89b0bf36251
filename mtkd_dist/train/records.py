"""What one rank tells of its steps: losses without keeping the device waiting, and where its time went."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from mtkd_dist.methods import Batch, Losses, Method
from mtkd_dist.pools.clock import PoolClock
from mtkd_dist.train.nonfinite import NonFiniteLoss, explain, losses_alone
from mtkd_dist.train.source import Source

POST_STEPS = 10
"""Records are posted this often."""


class Records:
    """The course of a training, told by its loop: for each step `begin`, `add`, `end` and, once it goes on, `ready`.

    Args:
        students: name -> network, for the loss of each sample alone where one is not finite.
        batch_size: of all ranks together.
        post: takes records; see `mtkd_dist.train.loop.train`.
    """

    def __init__(
        self,
        students: Mapping[str, nn.Module],
        method: Method,
        source: Source,
        batch_size: int,
        post: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self._networks = students
        self._method = method
        self._source = source
        self._batch_size = batch_size
        self._post = post
        self._readings: deque[_Reading] = deque()
        self._records: list[dict[str, Any]] = []
        self._clock = PoolClock()
        self._steps = 0
        self._posted = self._ready = self._began = time.perf_counter()
        self._worked: float | None = None

    def ready(self) -> None:
        """The next batch is wanted."""
        self._ready = time.perf_counter()
        if self._worked is not None:
            self._clock.add(held_back=self._ready - self._worked)

    def begin(self) -> None:
        """The batch is there."""
        self._began = time.perf_counter()

    def add(self, step: int, learning_rate: float, losses: Losses, gradient_norm: torch.Tensor, batch: Batch) -> None:
        """The step is made, as far as the host is concerned."""
        waited_seconds = self._began - self._ready
        self._readings.append(_Reading(step, waited_seconds, learning_rate, losses, gradient_norm, batch))
        self._steps += 1

    def end(self, step: int, flush: bool) -> None:
        """Read what the device has done, and post it after every `POST_STEPS` steps, or now if `flush`.

        Errors: NonFiniteLoss, after the course up to there is posted.
        """
        # One step behind, the device always has the next one to do while this waits.
        try:
            while len(self._readings) > (0 if flush else 1):
                self._records.append(self._read(self._readings.popleft()))
        except NonFiniteLoss:
            self._post(self._records)
            raise
        self._worked = time.perf_counter()
        self._clock.add(starved=self._began - self._ready, working=self._worked - self._began)
        if self._records and (flush or (step + 1) % POST_STEPS == 0):
            self._post([*self._records[:-1], self._records[-1] | self._summary(self._worked)])
            self._records, self._posted = [], self._worked

    def _summary(self, now: float) -> dict[str, Any]:
        return {
            "images_per_second": len(self._records) * self._batch_size / (now - self._posted),
            "students": self._clock.shares(),
            "so_far": {"seconds": sum(self._clock.seconds.values()), "images": self._steps * self._batch_size},
        }

    def _read(self, reading: _Reading) -> dict[str, Any]:
        """The step as a record. Errors: NonFiniteLoss."""
        values = reading.values()
        if not all(map(math.isfinite, values.values())):
            alone = losses_alone(self._networks, self._method, reading.batch)
            samples = self._source.share.describe(reading.step)
            raise explain(reading.step, values, reading.learning_rate, samples, alone)
        return {
            "step": reading.step,
            "learning_rate": reading.learning_rate,
            "wait_seconds": reading.waited_seconds,
            **values,
        }


class _Reading:
    """The numbers of one step on their way from the device, and the batch that they came from."""

    def __init__(
        self,
        step: int,
        waited_seconds: float,
        learning_rate: float,
        losses: Losses,
        gradient_norm: torch.Tensor,
        batch: Batch,
    ) -> None:
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
