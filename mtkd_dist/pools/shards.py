"""How several links share a run: each has a run of the slots of every step, and its part of the workers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mtkd_dist.config.shares import PoolShares


def slots_of_shard(slots_per_step: int, shard: int, shards: int) -> range:
    """Runs that differ by one slot at most."""
    return range(shard * slots_per_step // shards, (shard + 1) * slots_per_step // shards)


def split_slots(slots: Sequence[int], slots_per_step: int, shards: int) -> list[list[int]]:
    """For each link, those of `slots` that it has."""
    return [
        [slot for slot in slots if slot in slots_of_shard(slots_per_step, shard, shards)] for shard in range(shards)
    ]


def shard_of(worker: int, shards: int) -> int:
    """Which link calls the worker of this number: in turn, so that none has two more than another."""
    return worker % shards


def all_served(workers: Iterable[int], shards: int) -> bool:
    """Whether each link has one of the workers of these numbers."""
    return {shard_of(worker, shards) for worker in workers} == set(range(shards))


def merged(stats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of all links added up; shares as the mean over their workers."""
    if len(stats) == 1:
        return stats[0]
    workers = [max(1, one["workers"]) for one in stats]

    def mean(name: str) -> float:
        return sum(n * getattr(one["shares"], name) for n, one in zip(workers, stats, strict=True)) / sum(workers)

    totals = {name: sum(one[name] for one in stats) for name in stats[0] if name != "shares"}
    return {"shares": PoolShares(*(mean(name) for name in ("working", "starved", "held_back")))} | totals


class LinkTotals:
    """What links counted since they began, with the counts of those that died as they were seen last."""

    COUNTS = ("lost_workers", "hedged", "released", "quarantined")

    def __init__(self) -> None:
        self._seen: list[dict[str, Any]] = []
        self._dead: Counter[str] = Counter()

    def seen(self, stats: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`stats` of all links, by shard -> those of the run; see `merged`."""
        self._seen = [dict(one) for one in stats]
        total = merged(stats)
        return total | {name: total[name] + self._dead[name] for name in self.COUNTS}

    def died(self, shard: int) -> None:
        """Its link is replaced by one that counts from 0."""
        if self._seen:
            last = self._seen[shard]
            for name in self.COUNTS:
                self._dead[name] += last[name]
                last[name] = 0
