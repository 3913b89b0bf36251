"""Workers that take photographs one at a time: how many there are, and who gets which one."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.placement import Resources

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Job = TypeVar("Job")

DEATHS = 3
"""So many workers may die of one task before it is given up."""
START_SECONDS = 300.0
FIRST_SECONDS = 1800.0
"""So long a worker may be at a task before one of that kind was done by anybody."""
LEAST_SECONDS, TIMES = 600.0, 20.0
"""Afterwards: so many times the slowest of that kind so far, and at least so long."""


class Watch(Generic[Job]):
    """Which jobs take so long that their workers must hang. Pure: times are given, in seconds of any clock.

    Args:
        first_seconds: so long a worker may be at a job before one of that kind was done by anybody.
        least_seconds: so long it may be at it afterwards, or many times the slowest of that kind so far.
    """

    def __init__(self, first_seconds: float = FIRST_SECONDS, least_seconds: float = LEAST_SECONDS) -> None:
        self._first_seconds, self._least_seconds = first_seconds, least_seconds
        self._at_work: dict[Job, tuple[Hashable, float]] = {}
        self._slowest: dict[Hashable, float] = {}

    def begin(self, job: Job, kind: Hashable, now: float) -> None:
        """Jobs of one `kind` take alike long."""
        self._at_work[job] = kind, now

    def end(self, job: Job, now: float) -> None:
        """Its result is there."""
        if job in self._at_work:  # one that was lost may have been at its very end
            kind, began = self._at_work.pop(job)
            self._slowest[kind] = max(now - began, self._slowest.get(kind, 0.0))

    def lose(self, job: Job) -> None:
        """There will be no result: what it took says nothing of the others."""
        self._at_work.pop(job, None)

    def patience(self, kind: Hashable) -> float:
        """Seconds."""
        slowest = self._slowest.get(kind)
        return self._first_seconds if slowest is None else max(self._least_seconds, TIMES * slowest)

    def overdue(self, now: float) -> list[Job]:
        return [job for job, (kind, began) in self._at_work.items() if now - began >= self.patience(kind)]

    def next_seconds(self, now: float) -> float | None:
        """Until the next one is overdue; None while nobody works."""
        left = [began + self.patience(kind) - now for kind, began in self._at_work.values()]
        return max(0.0, min(left)) if left else None


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
    kind: Callable[[Task], Hashable] = lambda task: None,
    watch: Watch[Any] | None = None,
    give_up: Callable[[TrainingFailed], Any] | None = None,
) -> Iterator[tuple[Task, Any]]:
    """Each task with its result, as soon as it is there. The task of a worker that dies goes to the next that is free.

    A worker that is at a task for much longer than others were hangs, and is killed.

    Args:
        workers: started so that Ray restarts them, with a method `ready`.
        tasks: handed out in this order.
        call: starts a task on a worker; returns Ray's reference to the result. It may run more than once.
        say: the task in words, for messages.
        kind: tasks of one kind take alike long, up to the size of their photographs.
        watch: how long tasks may take.
        give_up: makes the result of a task of which several workers died; None: it ends everything.

    Errors: what a task raised; TrainingFailed that names the task of which several workers died, or says that none
    could be started.
    """
    waiting, idle = deque(tasks), list[ActorHandle]()
    deaths: Counter[Task] = Counter()
    asked: dict[Any, tuple[ActorHandle, Task | None]] = {_up(worker): (worker, None) for worker in workers}
    left = len(tasks)
    watch, hung = watch or Watch[Any](), dict[Task, float]()
    while left:
        patience = watch.next_seconds(time.monotonic())
        done, _ = ray.wait(list(asked), timeout=START_SECONDS if patience is None else patience)
        for reference in [] if done else watch.overdue(time.monotonic()):
            worker, task = asked[reference]
            assert task is not None
            hung[task] = watch.patience(kind(task))
            logger.warning("a worker is at %s for %.0f s: it is killed", say(task), hung[task])
            watch.lose(reference)
            ray.kill(worker, no_restart=False)  # its reference says so next
        if not done and patience is None:
            raise TrainingFailed(
                f"none of {len(workers)} workers could be started within {START_SECONDS:.0f} s; free are "
                f"{ray.available_resources()}. Is something else using the cluster?"
            )
        for reference in done:
            worker, task = asked.pop(reference)
            try:
                result = ray.get(reference)
                if task is not None:
                    watch.end(reference, time.monotonic())
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                if task is None:
                    raise TrainingFailed(f"a worker could not be started: {root_cause(error)}") from error
                watch.lose(reference)
                deaths[task] += 1
                if deaths[task] == DEATHS:
                    why = f"no end within {hung[task]:.0f} s" if task in hung else root_cause(error)
                    failed = TrainingFailed(f"workers died of {say(task)}, {DEATHS} times ({why}); see the log")
                    if give_up is None:
                        raise failed from error
                    left -= 1
                    yield task, give_up(failed)
                else:
                    waiting.appendleft(task)
                asked[_up(worker)] = (worker, None)
                continue
            idle.append(worker)
            if task is not None:
                left -= 1
                yield task, result
        while waiting and idle:
            worker, task = idle.pop(), waiting.popleft()
            reference = call(worker, task)
            asked[reference] = (worker, task)
            watch.begin(reference, kind(task), time.monotonic())


def _up(worker: ActorHandle) -> Any:
    """Reference that is there once the worker is up, be it for the first time or again."""
    return worker.ready.options(max_task_retries=-1).remote()
