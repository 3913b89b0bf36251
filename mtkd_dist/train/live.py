"""Batches for a training in one process whose teachers others share: a trial of a sweep."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.teacher_hosts import SharedTeacherPool, SharedTeachers
from mtkd_dist.pools.teacher_worker import TeacherJob
from mtkd_dist.train.alone import Sources
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.link_source import LinkSource
from mtkd_dist.train.source import Share, Source

logger = logging.getLogger(__name__)

LiveTeachers = Callable[
    [TeacherJob, StudentJob, LinkConfig, Callable[[str], object]], contextlib.AbstractContextManager[Sources]
]
"""Who answers a training in one process, as something that travels: what both halves of the training are, how its links
behave and who hears of them -> where its batches come from, for as long as the block lasts."""


@contextlib.contextmanager
def live_source(
    shared: SharedTeachers,
    teacher: TeacherJob,
    student: StudentJob,
    link: LinkConfig,
    say: Callable[[str], object] = logger.warning,
) -> Iterator[Sources]:
    """How to make the source of one attempt, for as long as the block lasts: (attempt, share, device) -> Source.

    The links to the teachers live as long as the block. When one dies, the source that misses it starts another.

    Args:
        teacher: the teacher half of this training; teachers, scale and precision are those of `shared`.
        say: takes a sentence for log and screen. It travels to the links and is called there too.

    Errors: ValueError where the teachers are others. Of `fetch`: LinkError when the teachers cannot deliver.
    """
    training = student.training
    with SharedTeacherPool(shared, teacher, training.steps, student.slots_per_step, link, say) as pool:

        def find_links() -> list[Any]:
            pool.heal()
            return pool.links

        def source(attempt: int, share: Share, device: torch.device) -> Source:
            return LinkSource(find_links, attempt, 0, 1, share, device, training.channels_last)

        yield source
