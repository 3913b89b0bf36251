"""What a comparison consists of: its cells, how they are put together to works, and the configuration of each. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from mtkd_dist.compare.tree import CompareConfig
from mtkd_dist.config.tree import Config
from mtkd_dist.stages.check_method import needs_networks
from mtkd_dist.stages.distil_method import in_force, method_title, needs_aggregator, settings_unused
from mtkd_dist.stages.manifest import fingerprint


class Work(NamedTuple):
    """What one process trains: one cell, or the cells of several students that learn from one stream of answers."""

    method: str
    students: tuple[str, ...]
    seed: int

    @property
    def folder(self) -> str:
        """Below the output folder. Of a stream all students share it."""
        first, *more = self.students
        students = f"{len(self.students)}-students-{fingerprint({'students': self.students})}" if more else slug(first)
        return f"cells/{slug(method_title(self.method))}/{students}/seed-{self.seed}"


def slug(network: str) -> str:
    """A network's text as the name of a folder: `edsr-baseline:width=16` -> `edsr-baseline-width=16`."""
    return re.sub(r"[^\w=.-]+", "-", network)


def works_of(compare: CompareConfig, base: Config) -> list[Work]:
    """All that is to be trained, the longest first: what is begun late ends late.

    Methods whose teachers answer live train all students of a seed at once, so that the teachers answer once.
    """
    streams = [method for method in compare.methods if _asks_live(config_of_method(base, method))]
    together = [Work(method, tuple(sorted(compare.students)), seed) for method in streams for seed in compare.seeds]
    alone = [
        Work(method, (student,), seed)
        for method in compare.methods
        if method not in streams
        for student in compare.students
        for seed in compare.seeds
    ]
    return together + alone


def config_of_method(base: Config, method: str) -> Config:
    """The shared configuration with one method: settings of other methods, which it would not look at, are left out,
    and so are the teachers where it needs none."""
    config = dataclasses.replace(base, method=method)
    config = _with(config, {key: default for key, (_, default) in settings_unused(config).items()})
    config, _ = in_force(config)
    live = base.teacher_outputs == "live" or not config.teachers or needs_networks(config)
    return dataclasses.replace(config, teacher_outputs="live" if live else "cached")


def reads_aggregate(base: Config, work: Work) -> bool:
    """Whether it needs the aggregator of its seed."""
    return needs_aggregator(config_of_method(base, work.method))


def _asks_live(config: Config) -> bool:
    return bool(config.teachers) and config.teacher_outputs == "live"


def config_of(base: Config, work: Work) -> Config:
    """As a launch would have it that does this work alone."""
    config = config_of_method(base, work.method)
    first, *more = work.students
    return dataclasses.replace(config, student=first, more_students=more, seed=work.seed)


def _with(config: Config, values: dict[str, Any]) -> Config:
    """With other values of some keys of its groups, which are given by dotted names."""
    for group in dict.fromkeys(_group(key) for key in values):
        own = {key.partition(".")[2]: value for key, value in values.items() if _group(key) == group}
        config = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **own)})
    return config


def _group(key: str) -> str:
    return key.partition(".")[0]


def count_cells(works: Iterable[Work]) -> int:
    return sum(len(work.students) for work in works)
