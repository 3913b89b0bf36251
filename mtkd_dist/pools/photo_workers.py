"""Workers that take photographs one at a time: how many there are, and who gets which one."""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.placement import Resources

Task = TypeVar("Task")

DEATHS = 3
"""So many workers may die of one task before it is given up."""
START_SECONDS = 300.0


@contextlib.contextmanager
def photo_workers(
    worker: type,
    arguments: Sequence[Any],
    tasks: int,
    resources: Resources,
    num_gpus: int | None,
    workers: int | None = None,
    max_restarts: int = 0,
) -> Iterator[list[ActorHandle]]:
    """Actors `worker(*arguments, has_gpu)` for as long as the block lasts.

    `workers` of them; None: one a GPU (at most `num_gpus`), or one a CPU core where there is no GPU; never more than
    `tasks`.
    """
    gpus = resources.gpus if num_gpus is None else min(num_gpus, resources.gpus)
    count = worker_count(tasks, gpus or resources.cpus, workers)
    # More workers than devices share them; one that asks for more than is left would never start.
    share_of_cpu = 0 if gpus else min(1.0, _share(resources.cpus, count))
    share_of_gpu = _share(1, -(-count // gpus)) if gpus else 0
    actor = ray.remote(worker).options(num_cpus=share_of_cpu, num_gpus=share_of_gpu, max_restarts=max_restarts)
    started = [actor.remote(*arguments, gpus > 0) for _ in range(count)]
    try:
        yield started
    finally:
        for one in started:
            ray.kill(one)


def worker_count(tasks: int, devices: int, asked: int | None) -> int:
    """One worker a device, or as many as asked for; never more than tasks."""
    return max(1, min(asked or devices, tasks))


def _share(devices: int, workers: int) -> float:
    """Of one worker, rounded down to the ten-thousandths that Ray counts in, so that all fit."""
    return devices * 10_000 // workers / 10_000


def hand_out(
    workers: Sequence[ActorHandle],
    tasks: Sequence[Task],
    call: Callable[[ActorHandle, Task], Any],
    say: Callable[[Task], str],
) -> Iterator[tuple[Task, Any]]:
    """Each task with its result, as soon as it is there. The task of a worker that dies goes to the next that is free.

    Args:
        workers: started so that Ray restarts them, with a method `ready`.
        tasks: handed out in this order.
        call: starts a task on a worker; returns Ray's reference to the result. It may run more than once.
        say: the task in words, for messages.

    Errors: what a task raised; TrainingFailed that names the task of which several workers died, or says that none
    could be started.
    """
    waiting, idle = deque(tasks), list[ActorHandle]()
    deaths: Counter[Task] = Counter()
    asked: dict[Any, tuple[ActorHandle, Task | None]] = {_up(worker): (worker, None) for worker in workers}
    left = len(tasks)
    while left:
        working = any(task is not None for _, task in asked.values())
        done, _ = ray.wait(list(asked), timeout=None if working else START_SECONDS)
        if not done:
            raise TrainingFailed(
                f"none of {len(workers)} workers could be started within {START_SECONDS:.0f} s; free are "
                f"{ray.available_resources()}. Is something else using the cluster?"
            )
        for reference in done:
            worker, task = asked.pop(reference)
            try:
                result = ray.get(reference)
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                if task is None:
                    raise TrainingFailed(f"a worker could not be started: {root_cause(error)}") from error
                deaths[task] += 1
                if deaths[task] == DEATHS:
                    raise TrainingFailed(
                        f"workers died of {say(task)}, {DEATHS} times ({root_cause(error)}); see the log"
                    ) from error
                waiting.appendleft(task)
                asked[_up(worker)] = (worker, None)
                continue
            idle.append(worker)
            if task is not None:
                left -= 1
                yield task, result
        while waiting and idle:
            worker, task = idle.pop(), waiting.popleft()
            asked[call(worker, task)] = (worker, task)


def _up(worker: ActorHandle) -> Any:
    """Reference that is there once the worker is up, be it for the first time or again."""
    return worker.ready.options(max_task_retries=-1).remote()
