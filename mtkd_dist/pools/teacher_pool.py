"""Starting, keeping and ending a teacher pool: its workers and the links that call them."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayActorError

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.board import answer_of_board
from mtkd_dist.pools.cluster import has_real_gpus
from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.link import LinkActor
from mtkd_dist.pools.link_state import LinkState
from mtkd_dist.pools.nodes import SchedulingStrategy, on_this_node
from mtkd_dist.pools.patience import Patience
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.shards import LinkTotals, all_served, shard_of, slots_of_shard
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker, describe_slot

PLACEMENT_SECONDS = 600.0
"""So long the first teacher workers may take to start before a run is given up."""
REMIND_SECONDS = 60.0
"""Workers that have not started are spoken of this often."""

logger = logging.getLogger(__name__)


class TeacherPool(contextlib.AbstractContextManager["TeacherPool"]):
    """Teacher workers and their links, for as long as a `with` block lasts; `heal` keeps them running in it.

    The block is entered once `config.min_teachers` workers have loaded, and one for each link. The teachers work once
    a student attaches.

    Args:
        board: tells students where the links are.
        strategies: of Ray, one a worker; None: Ray decides where they run.

    Errors on entering: TrainingFailed when a worker cannot load its networks, or when the cluster has no room for the
    first ones.
    """

    def __init__(
        self,
        job: TeacherJob,
        pool: PoolSize,
        steps: int,
        slots_per_step: int,
        config: LinkConfig,
        board: ActorHandle,
        strategies: Sequence[SchedulingStrategy] | None = None,
    ) -> None:
        self._job = job
        self._pool = pool
        self._steps = steps
        self._slots_per_step = slots_per_step
        self._config = config
        self._board = board
        self._strategies = strategies or ["DEFAULT"] * pool.workers
        self._concurrency = 2 if pool.gpus and has_real_gpus() else 1
        self.workers: dict[str, ActorHandle] = {}
        self.links: list[ActorHandle] = []
        self._totals = LinkTotals()
        self._loading: dict[Any, str] = {}
        self._ends: list[Any] = []
        self._reminded = time.monotonic()

    def __enter__(self) -> TeacherPool:
        try:
            self._start_workers()
            self._start_links()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    @property
    def link(self) -> ActorHandle:
        """The first link, which is the only one unless `config.shards` says otherwise."""
        return self.links[0]

    def heal(self) -> None:
        """To be called often: a dead link gets a successor, and workers that have not started are spoken of.

        Errors: TrainingFailed when a worker cannot load its networks, or when the board is dead.
        """
        self._look_at_loading()
        ended, _ = ray.wait(self._ends, num_returns=len(self._ends), timeout=0)
        for shard in sorted(self._ends.index(end) for end in ended):
            self._totals.died(shard)
            self.links[shard] = self._new_link(shard)
            self._ends[shard] = self.links[shard].run.remote()
            _say(self._board, "the link died: another one has taken its place, and what was lost is answered again")
        if ended:
            answer_of_board(self._board.announce.remote(self.links))

    def stats(self, timeout: float) -> dict[str, Any]:
        """Of all links together, and of those that they replaced; see `Link.stats`. Errors: those of `ray.get`."""
        return self._totals.seen(ray.get([link.stats.remote() for link in self.links], timeout=timeout))

    def _start_workers(self) -> None:
        """Errors: TrainingFailed."""
        actor = ray.remote(TeacherWorker)
        options = {
            "num_cpus": self._pool.cpus,
            "num_gpus": self._pool.gpus,
            "max_restarts": -1,
            "max_task_retries": 0,
            "max_concurrency": self._concurrency,
        }
        for i, strategy in enumerate(self._strategies):
            self.workers[f"teacher-{i}"] = actor.options(scheduling_strategy=strategy, **options).remote(self._job)
        self._loading = {worker.ping.remote(): name for name, worker in self.workers.items()}
        needed = min(self._config.min_teachers, self._pool.workers)
        deadline = time.monotonic() + PLACEMENT_SECONDS
        while len(loaded := self._loaded()) < needed or not all_served(loaded, self._shards):
            if time.monotonic() > deadline:
                raise TrainingFailed(
                    f"{self._still_loading()}. Is something else using the cluster? Ask for fewer (--num-gpus)"
                )
            ray.wait(list(self._loading), timeout=1)
            self._look_at_loading()

    def _start_links(self) -> None:
        self.links = [self._new_link(shard) for shard in range(self._shards)]
        self._ends = [link.run.remote() for link in self.links]
        answer_of_board(self._board.announce.remote(self.links))

    @property
    def _shards(self) -> int:
        return min(self._config.shards, self._pool.workers, self._slots_per_step)

    def _kill(self) -> None:
        for handle in [*self.links, *self.workers.values()]:
            ray.kill(handle)

    def _new_link(self, shard: int) -> ActorHandle:
        job, config, shards = self._job, self._config, self._shards
        state = LinkState(
            plan=job.plan.digest,
            steps=self._steps,
            slots=slots_of_shard(self._slots_per_step, shard, shards),
            window_steps=config.window_steps,
            max_bytes=config.max_bytes // shards,
            patience=Patience(config.hang_seconds),
            concurrency=self._concurrency,
        )
        workers = {
            name: worker for i, (name, worker) in enumerate(self.workers.items()) if shard_of(i, shards) == shard
        }
        describe = functools.partial(describe_slot, job.images, job.plan, job.slot_size)
        say = functools.partial(_say, self._board)
        # What the link owns outlives other nodes too.
        return LinkActor.options(scheduling_strategy=on_this_node()).remote(state, workers, config, describe, say)

    def _loaded(self) -> list[int]:
        loading = set(self._loading.values())
        return [i for i, name in enumerate(self.workers) if name not in loading]

    def _look_at_loading(self) -> None:
        if not self._loading:
            return
        done, _ = ray.wait(list(self._loading), num_returns=len(self._loading), timeout=0)
        for ping in done:
            try:
                ray.get(ping)
            except ActorDiedError as error:
                raise TrainingFailed(f"a teacher worker did not start: {root_cause(error)}") from error
            except RayActorError:
                # Its process or node went away meanwhile, and Ray starts it again.
                self._loading[self.workers[self._loading[ping]].ping.remote()] = self._loading[ping]
            del self._loading[ping]
        if self._loading and time.monotonic() > self._reminded + REMIND_SECONDS:
            self._reminded = time.monotonic()
            _say(self._board, self._still_loading())

    def _still_loading(self) -> str:
        return (
            f"{len(self._loading)} of {len(self.workers)} teacher workers have not started: each wants "
            f"{self._pool.cpus:g} CPU and {self._pool.gpus:g} GPU, free are {ray.available_resources()}"
        )


def _say(board: ActorHandle, note: str) -> None:
    """To log and screen."""
    logger.warning(note)
    board.post.remote([{"note": note}])
