"""Where a student rank gets its batches: from the link, or cut by itself where the method has no teacher half.

Both deliver the same samples: the plan says which slots make up a step, and the ranks share them out in runs, so the
global batch does not depend on the number of ranks.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mtkd_dist.data import ImageStore, Plan, Sample
from mtkd_dist.methods import Batch
from mtkd_dist.pools.teacher_worker import cut_slot, describe, open_images
from mtkd_dist.pools.wire import Answer, checks_of, unpack


def slots_of_rank(slots_per_step: int, rank: int, world_size: int) -> list[int]:
    """A run of slots for each rank in order; where they do not divide evenly, the first ranks take one more.

    Errors: ValueError where some rank would get none.
    """
    if world_size > slots_per_step:
        raise ValueError(f"{world_size} student ranks cannot share {slots_per_step} slots of a step")
    share, more = divmod(slots_per_step, world_size)
    first = rank * share + min(rank, more)
    return list(range(first, first + share + (rank < more)))


@dataclass(frozen=True)
class Share:
    """What one rank takes of every step."""

    images: Path
    """Folder of an `ImageStore`."""
    plan: Plan
    slot_size: int
    slots: list[int]
    skipped: dict[int, list[int]] = field(default_factory=dict)
    """Of a step, slots that the link left out (`link.on_deadly: skip`); filled as they are met."""

    @property
    def slots_per_step(self) -> int:
        """Of all ranks together."""
        return self.plan.batch_size // self.slot_size

    def samples(self, step: int) -> list[Sample]:
        """In the order of the rank's batch."""
        slots, skipped = self.plan.slots(step, self.slot_size), self.skipped.get(step, [])
        return [sample for slot in self.slots if slot not in skipped for sample in slots[slot]]

    def describe(self, step: int) -> list[str]:
        """The same in words, photograph and place."""
        store = open_images(self.images, self.plan)
        return [describe(store, sample) for sample in self.samples(step)]


def batch_of(answers: Sequence[Answer], device: torch.device, channels_last: bool) -> Batch:
    """The answers of a rank's slots, in order, as its batch."""

    def joined(arrays: list[Any]) -> Tensor:
        return unpack(arrays, device, channels_last)

    return Batch(
        lr=joined([a["lr"] for a in answers]),
        hr=joined([a["hr"] for a in answers]),
        signals={name: joined([a["signals"][name] for a in answers]) for name in answers[0]["signals"]},
        checks=tuple(check for a in answers for check in checks_of(a["lr"])),
    )


class Source(Protocol):
    share: Share

    def fetch(self, step: int) -> Batch:
        """This rank's share of a step; blocks until it is there."""
        ...


class LocalSource:
    """Cuts LR and HR itself; for methods without a teacher half."""

    def __init__(self, share: Share, device: torch.device, channels_last: bool = False) -> None:
        self.share = share
        self._store: ImageStore = open_images(share.images, share.plan)
        self._device = device
        self._channels_last = channels_last

    def fetch(self, step: int) -> Batch:
        lr, hr = cut_slot(self._store, self.share.samples(step), self.share.plan.patch)
        lr_01, hr_01 = (unpack([images], self._device, self._channels_last) for images in (lr, hr))
        return Batch(lr=lr_01, hr=hr_01, signals={}, checks=checks_of(lr))


class Prefetcher:
    """Fetches ahead on a thread of its own, so that the training thread finds its batch on the device.

    Iterating yields (step, batch) from `first` to `last - 1`; what goes wrong on the thread is raised here.
    """

    def __init__(self, source: Source, first: int, last: int, depth: int = 2) -> None:
        self._source = source
        self._steps = range(first, last)
        self._queue: queue.Queue[tuple[int, Batch] | BaseException | None] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        self._thread.start()
        try:
            while (item := self._queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()

    def _run(self) -> None:
        try:
            for step in self._steps:
                self._put((step, self._source.fetch(step)))
                if self._stop.is_set():
                    return
            self._put(None)
        except BaseException as error:  # handed to the training thread, which raises it
            self._put(error)

    def _put(self, item: tuple[int, Batch] | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.5)
                return
            except queue.Full:
                continue
