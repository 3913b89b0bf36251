"""Teacher workers that are loading: which are there, which are not, and why one cannot come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayActorError

from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.placement import PoolSize

PLACEMENT_SECONDS = 600.0
"""So long the first teacher workers may take to start before a run is given up."""
REMIND_SECONDS = 60.0
"""Workers that have not started are spoken of this often."""


class Starting:
    """Args:
    workers: by name; actors with a method `ping`, which answers once they have loaded.
    pool: what each of them reserves.
    say: takes a sentence for log and screen.
    """

    def __init__(self, workers: Mapping[str, ActorHandle], pool: PoolSize, say: Callable[[str], object]) -> None:
        self._workers = workers
        self._pool = pool
        self._say = say
        self._loading: dict[Any, str] = {worker.ping.remote(): name for name, worker in workers.items()}
        self._reminded = time.monotonic()

    def wait(self, enough: Callable[[list[int]], bool]) -> None:
        """Until the workers that have loaded, by their place in order, are `enough`. Errors: TrainingFailed."""
        deadline = time.monotonic() + PLACEMENT_SECONDS
        while not enough(self._loaded()):
            if time.monotonic() > deadline:
                raise TrainingFailed(
                    f"{self._still_loading()}. Is something else using the cluster? Ask for fewer (--num-gpus)"
                )
            ray.wait(list(self._loading), timeout=1)
            self.look()

    def look(self) -> None:
        """To be called often: workers that have not started are spoken of.

        Errors: TrainingFailed when a worker cannot load its networks.
        """
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
                self._loading[self._workers[self._loading[ping]].ping.remote()] = self._loading[ping]
            del self._loading[ping]
        if self._loading and time.monotonic() > self._reminded + REMIND_SECONDS:
            self._reminded = time.monotonic()
            self._say(self._still_loading())

    def _loaded(self) -> list[int]:
        loading = set(self._loading.values())
        return [i for i, name in enumerate(self._workers) if name not in loading]

    def _still_loading(self) -> str:
        return (
            f"{len(self._loading)} of {len(self._workers)} teacher workers have not started: each wants "
            f"{self._pool.cpus:g} CPU and {self._pool.gpus:g} GPU, free are {ray.available_resources()}"
        )
