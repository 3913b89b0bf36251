"""Cells side by side: each is a Ray task, and Ray begins it as soon as what it needs is there, and room for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from mtkd_dist.compare.cell import do_work, score_references, train_aggregator
from mtkd_dist.compare.room import Room
from mtkd_dist.compare.shared import Shared
from mtkd_dist.compare.work import Work, reads_aggregate
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.pools.interrupts import leaving
from mtkd_dist.report.comparison import Cell, Scores
from mtkd_dist.train.stopping import Saved

POLL_SECONDS = 0.5


def run_works(
    shared: Shared, works: Sequence[Work], room: Room, retries: int, stop: Callable[[], object] = lambda: None
) -> Iterator[tuple[Work | None, list[Cell] | dict[str, Scores] | str]]:
    """Each work as it ends, with its cells; under None, scores of what students are measured by. Or why there are none.

    Args:
        retries: so often a process that dies is started again; what it raises ends its own work only.
        stop: called after the first Ctrl-C: `shared.asked_to_stop` is to be true from then on.

    Errors: KeyboardInterrupt after the first Ctrl-C, once what was at work has saved; at once after the second.
    """
    tasks = _Tasks(shared, retries)
    # First the aggregators: others wait for them.
    seeds = dict.fromkeys(work.seed for work in works if reads_aggregate(shared.config, work))
    waiting: deque[int | Work | None] = deque([*seeds, *works, None])
    running: dict[Any, int | Work | None] = {}
    told = False
    with leaving() as leave:
        while waiting or running:
            while waiting and (room.concurrent is None or len(running) < room.concurrent):
                if waiting[0] is None and any(isinstance(what, int) for what in running.values()):
                    break  # which aggregators can be scored is known when all have ended
                what = waiting.popleft()
                running[tasks.begin(what)] = what
            done, _ = ray.wait(list(running), timeout=POLL_SECONDS)
            if leave.asked and not told:
                waiting.clear()
                stop()
                told = True
            leave.check()
            for task in done:
                what, outcome = running.pop(task), _outcome(task)
                # That an aggregator failed is told by those that wait for it.
                if outcome is not None and not isinstance(what, int):
                    yield what, outcome
    if leave.asked:
        raise KeyboardInterrupt("What was at work is saved.")


class _Tasks:
    def __init__(self, shared: Shared, retries: int) -> None:
        self._config = shared.config
        self._shared = ray.put(shared)
        pool = shared.pool
        self._options: dict[str, Any] = {"num_cpus": pool.cpus, "num_gpus": pool.gpus, "max_retries": retries}
        if pool.gpus:
            # A process keeps the first GPU that it has used, and its memory: the next cell may be given another one.
            self._options["max_calls"] = 1
        self._aggregators: dict[int, Any] = {}

    def begin(self, what: int | Work | None) -> Any:
        """The aggregator of a seed, a work, or, for None, the references: last, when all aggregators have ended."""
        if what is None:
            made = {seed: task for seed, task in self._aggregators.items() if not isinstance(_outcome(task), str)}
            return self._begin(_references, list(made), *made.values())
        if isinstance(what, int):
            self._aggregators[what] = self._begin(train_aggregator, what)
            return self._aggregators[what]
        return self._begin(do_work, what, self._aggregators[what.seed] if reads_aggregate(self._config, what) else None)

    def _begin(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return ray.remote(**self._options)(function).remote(self._shared, *arguments)


def _references(shared: Shared, seeds: Sequence[int], *aggregators: Path) -> dict[str, Scores]:
    return score_references(shared, dict(zip(seeds, aggregators, strict=True)))


def _outcome(task: Any) -> Any:
    """None where it was asked to stop."""
    try:
        return ray.get(task)
    except RayError as error:
        return None if isinstance(error, Saved) else root_cause(error)
