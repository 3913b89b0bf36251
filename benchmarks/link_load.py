"""Loads for the link: teachers and students that only wait, for as long as they are told.

A few processes stand for many: what is measured is the link, and not how many processes a machine can bear.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.lease import Lease
from mtkd_dist.pools.link import Link
from mtkd_dist.pools.link_state import LinkState
from mtkd_dist.pools.patience import Patience
from mtkd_dist.pools.shards import slots_of_shard
from mtkd_dist.pools.teacher_handle import OwnTeacher
from mtkd_dist.pools.wire import Answer, Meta

PLAN = "the same plan for all"


def an_answer(image_bytes: int, seconds: float) -> tuple[Meta, Answer]:
    """One sample whose LR, HR and signal together have `image_bytes`."""
    # Three arrays: one that occurs three times would travel once.
    lr, hr, signal = (np.zeros((1, 3, 1, max(1, image_bytes // 9)), np.uint8) for _ in range(3))
    return Meta(bytes=3 * lr.nbytes, busy_seconds=seconds), Answer(lr=lr, hr=hr, signals={"signal": signal})


@ray.remote(num_cpus=0)
class WaitingTeacher:
    """A worker in a process of its own, as the real ones are."""

    def __init__(self, seconds: float, image_bytes: int) -> None:
        self._seconds, self._bytes = seconds, image_bytes

    def ping(self) -> str:
        return PLAN

    def answer(self, step: int, slot: int) -> tuple[Meta, Answer]:
        time.sleep(self._seconds)
        return an_answer(self._bytes, self._seconds)


@ray.remote(num_cpus=0, max_concurrency=1000)
class ManyTeachers:
    """Many workers in one process; each does one thing at a time."""

    def __init__(self, seconds: float, image_bytes: int) -> None:
        self._seconds, self._answer = seconds, an_answer(image_bytes, seconds)
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ping(self) -> str:
        return PLAN

    async def answer(self, step: int, slot: int, worker: str) -> tuple[Meta, Answer]:
        async with self._turns[worker]:
            await asyncio.sleep(self._seconds)
        return self._answer


@ray.remote(num_cpus=0, max_concurrency=1000)
class MeasuredLink(Link):
    async def cpu_seconds(self) -> float:
        """Of all threads of its process; unlike a rate, it does not depend on who else uses the machine."""
        return time.process_time()


class OneOfMany(OwnTeacher):
    """What the link takes for a worker of its own."""

    def __init__(self, process: Any, worker: str) -> None:
        super().__init__(process)
        self._name = worker

    def answer(self, lease: Lease) -> tuple[Any, Any]:
        meta, answer = self._worker.answer.options(num_returns=2).remote(*lease.key, self._name)
        return meta, answer


@ray.remote(num_cpus=0, max_concurrency=1000)
class ManyStudents:
    """Many ranks in one process; each takes its slots of every step as a `LinkSource` does, and waits `seconds`."""

    async def run(
        self, links: list[Any], ranks: list[tuple[int, int]], slots_each: int, steps: range, seconds: float
    ) -> None:
        """`ranks`: (rank, number of the link that has its slots)."""
        await asyncio.gather(*(self._rank(links, of, rank, slots_each, steps, seconds) for rank, of in ranks))

    async def _rank(self, links: list[Any], of: int, rank: int, slots_each: int, steps: range, seconds: float) -> None:
        slots = [list(range(rank * slots_each, (rank + 1) * slots_each)) if i == of else [] for i in range(len(links))]

        def ask(step: int) -> list[Any]:
            return [link.take.remote(1, rank, step, own) for link, own in zip(links, slots, strict=True)]

        asked = ask(steps.start)
        for step in steps:
            await asyncio.gather(*(await asked[of]))
            asked = ask(step + 1)
            if seconds:
                await asyncio.sleep(seconds)


@contextmanager
def links_of(
    workers: dict[str, Any], steps: int, slots_per_step: int, config: LinkConfig | None = None
) -> Iterator[list[Any]]:
    """Running links; `config.shards` of them share slots and workers, each an actor or one of many in an actor."""
    config = config or LinkConfig()
    links = []
    for shard in range(config.shards):
        state = LinkState(
            plan=PLAN,
            steps=steps,
            slots=slots_of_shard(slots_per_step, shard, config.shards),
            window_steps=config.window_steps,
            max_bytes=config.max_bytes // config.shards,
            patience=Patience(config.hang_seconds),
        )
        own = {
            name: worker if isinstance(worker, OneOfMany) else OwnTeacher(worker)
            for name, worker in list(workers.items())[shard :: config.shards]
        }
        links.append(MeasuredLink.remote(state, own, config, _no_words, _no_words))
    running = [link.run.remote() for link in links]
    try:
        yield links
    finally:
        del running
        for link in links:
            ray.kill(link)


def _no_words(*args: object) -> str:
    return ""
