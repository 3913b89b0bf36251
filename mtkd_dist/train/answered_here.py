"""Batches of live teachers without a pool: the process that trains asks them itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.methods import Batch
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker
from mtkd_dist.train.alone import Sources
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.source import Share, Source, batch_of


class AnsweredHere:
    """What a link delivers, without one: the same answers, slot by slot."""

    def __init__(self, share: Share, worker: TeacherWorker, device: torch.device, channels_last: bool = False) -> None:
        self.share = share
        self._worker = worker
        self._device = device
        self._channels_last = channels_last

    def fetch(self, step: int) -> Batch:
        answers = [self._worker.answer(step, slot)[1] for slot in self.share.slots]
        return batch_of(answers, self._device, self._channels_last)


@contextlib.contextmanager
def answered_here(
    teacher: TeacherJob, student: StudentJob, link: LinkConfig, say: Callable[[str], object]
) -> Iterator[Sources]:
    """A `LiveTeachers`: the networks are loaded into this process, with the device that `teacher.pool` reserved."""
    worker = TeacherWorker(teacher)

    def source(attempt: int, share: Share, device: torch.device) -> Source:
        return AnsweredHere(share, worker, device, student.training.channels_last)

    yield source
