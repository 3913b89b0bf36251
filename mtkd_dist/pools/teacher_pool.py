"""Starting and ending a teacher pool: its workers and the link that calls them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.link import LinkActor
from mtkd_dist.pools.link_state import LinkState
from mtkd_dist.pools.nodes import SchedulingStrategy
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker

PLACEMENT_SECONDS = 600.0
"""So long teacher workers may take to start before a run is given up; the log says each minute what it waits for."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherPool:
    """Handles of a running teacher pool."""

    link: ActorHandle
    workers: dict[str, ActorHandle]


@contextlib.contextmanager
def teacher_pool(
    job: TeacherJob,
    pool: PoolSize,
    steps: int,
    slots_per_step: int,
    config: LinkConfig,
    strategies: Sequence[SchedulingStrategy] | None = None,
) -> Iterator[TeacherPool]:
    """Teacher workers and their link, for as long as the block lasts. The teachers work once a student attaches.

    `strategies`: of Ray, one a worker; None: Ray decides where they run.
    Errors: TrainingFailed when a worker cannot load its networks, or when the cluster has no room for it.
    """
    actor = ray.remote(TeacherWorker)
    options = {"num_cpus": pool.cpus, "num_gpus": pool.gpus, "max_restarts": -1, "max_task_retries": 0}
    workers = {
        f"teacher-{i}": actor.options(scheduling_strategy=strategy, **options).remote(job)
        for i, strategy in enumerate(strategies or ["DEFAULT"] * pool.workers)
    }
    handles: list[ActorHandle] = list(workers.values())
    try:
        _wait_until_started(list(workers.values()), pool)
        state = LinkState(
            steps=steps, slots_per_step=slots_per_step, window_steps=config.window_steps, max_bytes=config.max_bytes
        )
        link = LinkActor.remote(state, workers, config.starved_seconds)
        handles.append(link)
        yield TeacherPool(link, workers)
    finally:
        for handle in handles:
            ray.kill(handle)


def _wait_until_started(workers: list[ActorHandle], pool: PoolSize) -> None:
    waiting = [worker.ping.remote() for worker in workers]
    deadline = time.monotonic() + PLACEMENT_SECONDS
    while waiting:
        ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=60)
        try:
            ray.get(ready)
        except RayActorError as error:
            raise TrainingFailed(f"a teacher worker did not start: {root_cause(error)}") from error
        if waiting:
            message = (
                f"{len(waiting)} of {len(workers)} teacher workers have not started: each wants {pool.cpus:g} CPU and "
                f"{pool.gpus:g} GPU, free are {ray.available_resources()}"
            )
            if time.monotonic() > deadline:
                raise TrainingFailed(f"{message}. Is something else using the cluster? Ask for fewer (--num-gpus)")
            logger.warning(message)
