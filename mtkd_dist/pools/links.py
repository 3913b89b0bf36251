"""The links of one training: started, kept alive and ended."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.link import LinkActor, LinkError
from mtkd_dist.pools.link_state import LinkState
from mtkd_dist.pools.nodes import on_this_node
from mtkd_dist.pools.patience import Patience
from mtkd_dist.pools.shards import LinkTotals, shard_of, slots_of_shard
from mtkd_dist.pools.teacher_handle import TeacherHandle
from mtkd_dist.pools.teacher_worker import TeacherJob, describe_slot


def count_links(config: LinkConfig, workers: int, slots_per_step: int) -> int:
    """As many as were asked for, as long as each has a worker and a slot of every step."""
    return min(config.shards, workers, slots_per_step)


class Links:
    """They run on this node, outside of any placement group, and end with this process if not before.

    Args:
        workers: by name, shared out among the links in turn.
        concurrency: leases that a worker works at side by side.
        shared: see `LinkState`.
        say: takes a sentence for log and screen; it travels to the links.
    """

    def __init__(
        self,
        job: TeacherJob,
        steps: int,
        slots_per_step: int,
        config: LinkConfig,
        workers: Mapping[str, TeacherHandle],
        concurrency: int,
        shared: bool,
        say: Callable[[str], object],
    ) -> None:
        self._job = job
        self._steps = steps
        self._slots_per_step = slots_per_step
        self._config = config
        self._workers = workers
        self._concurrency = concurrency
        self._shared = shared
        self._say = say
        self._count = count_links(config, len(workers), slots_per_step)
        self._totals = LinkTotals()
        self._changing = threading.Lock()
        self._killed = False
        self.handles = [self._new(shard) for shard in range(self._count)]
        """As they are now, in the order of their slots."""
        self._ends = [link.run.remote() for link in self.handles]

    def heal(self) -> bool:
        """To be called often: a dead link gets a successor. Returns whether there is a new one.

        Errors: LinkError after `kill`: a thread that still asks for answers must not start anything then.
        """
        with self._changing:
            if self._killed:
                raise LinkError("the training that this link belonged to is over")
            ended, _ = ray.wait(self._ends, num_returns=len(self._ends), timeout=0)
            for shard in sorted(self._ends.index(end) for end in ended):
                self._totals.died(shard)
                self.handles[shard] = self._new(shard)
                self._ends[shard] = self.handles[shard].run.remote()
                self._say("the link died: another one has taken its place, and what was lost is answered again")
            return bool(ended)

    def stats(self, timeout: float) -> dict[str, Any]:
        """Of all links together, and of those that they replaced; see `Link.stats`. Errors: those of `ray.get`."""
        return self._totals.seen(ray.get([link.stats.remote() for link in self.handles], timeout=timeout))

    def kill(self) -> None:
        with self._changing:
            self._killed = True
            for link in self.handles:
                ray.kill(link)

    def _new(self, shard: int) -> ActorHandle:
        job, config = self._job, self._config
        state = LinkState(
            plan=job.plan.digest,
            steps=self._steps,
            slots=slots_of_shard(self._slots_per_step, shard, self._count),
            window_steps=config.window_steps,
            max_bytes=config.max_bytes // self._count,
            patience=Patience(config.hang_seconds),
            concurrency=self._concurrency,
            shared=self._shared,
        )
        workers = {
            name: worker for i, (name, worker) in enumerate(self._workers.items()) if shard_of(i, self._count) == shard
        }
        describe = functools.partial(describe_slot, job.images, job.plan, job.slot_size)
        # What a link owns outlives other nodes too. And without a strategy of its own, it would belong to the placement
        # group of the trial that makes it.
        return LinkActor.options(scheduling_strategy=on_this_node()).remote(state, workers, config, describe, self._say)
