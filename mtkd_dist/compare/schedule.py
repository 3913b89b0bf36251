"""Cells side by side: each is a Ray task, and Ray begins it as soon as what it needs is there, and room for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from mtkd_dist.compare.cell import do_work, score_references, train_aggregator
from mtkd_dist.compare.shared import Shared
from mtkd_dist.compare.work import Work
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.report.comparison import Cell, Scores


class Running:
    """All works of a comparison, given to Ray.

    Args:
        seeds: of which mtkd gets an aggregator each.
        retries: so often a process that dies is started again; what it raises ends its own work only.
    """

    def __init__(self, shared: Shared, works: Sequence[Work], seeds: Sequence[int], retries: int) -> None:
        self._shared = ray.put(shared)
        self._options = {"num_cpus": shared.pool.cpus, "num_gpus": shared.pool.gpus, "max_retries": retries}
        aggregated = [seed for seed in seeds if any(work.method == "mtkd" and work.seed == seed for work in works)]
        # First of all: others wait for them.
        aggregators = {seed: self._begin(train_aggregator, seed) for seed in aggregated}
        self._references = self._begin(_references, aggregated, *aggregators.values())
        self._works = {
            self._begin(do_work, work, aggregators[work.seed] if work.method == "mtkd" else None): work
            for work in works
        }

    def ended(self) -> Iterator[tuple[Work, list[Cell] | str]]:
        """Each work as it ends, with its cells, or why there are none."""
        running = dict(self._works)
        while running:
            (done, *_), _ = ray.wait(list(running))
            yield running.pop(done), _outcome(done)

    def references(self) -> dict[str, Scores] | str:
        """Scores of what students are measured by, or why there are none."""
        scores: dict[str, Scores] | str = _outcome(self._references)
        return scores

    def _begin(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return ray.remote(function).options(name=function.__name__, **self._options).remote(self._shared, *arguments)


def _outcome(task: Any) -> Any:
    try:
        return ray.get(task)
    except RayError as error:
        return root_cause(error)


def _references(shared: Shared, seeds: Sequence[int], *aggregators: Path) -> dict[str, Scores]:
    return score_references(shared, dict(zip(seeds, aggregators, strict=True)))
