"""Starting, keeping and ending a teacher pool: its workers and the links that call them."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.board import answer_of_board
from mtkd_dist.pools.cluster import has_real_gpus
from mtkd_dist.pools.links import Links, count_links
from mtkd_dist.pools.nodes import SchedulingStrategy
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.shards import all_served
from mtkd_dist.pools.starting import Starting
from mtkd_dist.pools.teacher_handle import OwnTeacher
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker

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
        self._say = functools.partial(_say, board)
        self._strategies = strategies or ["DEFAULT"] * pool.workers
        self.workers: dict[str, ActorHandle] = {}

    def __enter__(self) -> TeacherPool:
        with contextlib.ExitStack() as undone:
            undone.callback(self._kill_workers)
            actor, options = ray.remote(TeacherWorker), actor_options(self._pool)
            for i, strategy in enumerate(self._strategies):
                self.workers[f"teacher-{i}"] = actor.options(scheduling_strategy=strategy, **options).remote(self._job)
            self._starting = Starting(self.workers, self._pool, self._say)
            needed = min(self._config.min_teachers, self._pool.workers)
            shards = count_links(self._config, self._pool.workers, self._slots_per_step)
            self._starting.wait(lambda loaded: len(loaded) >= needed and all_served(loaded, shards))
            handles = {name: OwnTeacher(worker) for name, worker in self.workers.items()}
            self._links = Links(
                self._job,
                self._steps,
                self._slots_per_step,
                self._config,
                handles,
                answers_at_a_time(self._pool),
                shared=False,
                say=self._say,
            )
            undone.callback(self._links.kill)
            answer_of_board(self._board.announce.remote(self.links))
            undone.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._links.kill()
        self._kill_workers()

    @property
    def links(self) -> list[ActorHandle]:
        return self._links.handles

    @property
    def link(self) -> ActorHandle:
        """The first link, which is the only one unless `config.shards` says otherwise."""
        return self.links[0]

    def heal(self) -> None:
        """To be called often: a dead link gets a successor, and workers that have not started are spoken of.

        Errors: TrainingFailed when a worker cannot load its networks, or when the board is dead.
        """
        self._starting.look()
        if self._links.heal():
            answer_of_board(self._board.announce.remote(self.links))

    def stats(self, timeout: float) -> dict[str, Any]:
        """Of all links together, and of those that they replaced; see `Link.stats`. Errors: those of `ray.get`."""
        return self._links.stats(timeout)

    def _kill_workers(self) -> None:
        for worker in self.workers.values():
            ray.kill(worker)


def answers_at_a_time(pool: PoolSize) -> int:
    """Of one worker: on a GPU, one is cut and copied while another one is computed."""
    return 2 if pool.gpus and has_real_gpus() else 1


def actor_options(pool: PoolSize) -> dict[str, Any]:
    """Of Ray, for a teacher worker: it is started again however often, and what it was asked is not asked again."""
    return {
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": answers_at_a_time(pool),
    }


def _say(board: ActorHandle, note: str) -> None:
    """To log and screen."""
    logger.warning(note)
    board.post.remote([{"note": note}])
