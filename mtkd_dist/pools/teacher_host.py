"""A teacher worker that several trainings share: it holds the teachers once and answers the slots of all their jobs.

Ray knows it as the actor class `TeacherHost`. The class itself is plain Python and is tested without Ray.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from mtkd_dist.methods import FrozenNetworks
from mtkd_dist.models import digest_file
from mtkd_dist.pools.link_state import MAX_FAILURES_IN_A_ROW
from mtkd_dist.pools.patience import Patience
from mtkd_dist.pools.teacher_handle import UnknownLink
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker
from mtkd_dist.pools.watchdog import Watchdog
from mtkd_dist.pools.wire import Answer, Meta

logger = logging.getLogger(__name__)

LONGER = 2.0
"""Times as long as a link has patience may its answer take: one that still lives has killed the host before."""


@dataclass
class _Guest:
    """A link, and what answers it: the shared teachers with the job's own plan, method and aggregator."""

    link: Any
    worker: TeacherWorker
    patience: Patience
    answers: int = 0

    @property
    def hung_seconds(self) -> float:
        return LONGER * self.patience.hung_seconds(self.answers)


class TeacherHost:
    """Links greet it with their jobs and then ask for slots of them. A host that Ray has started again knows none.

    A link looks after what was begun for it. Of what was begun for one that is gone, the host takes care itself: where
    that hangs, its process ends. So nobody needs to guess why an answer is still waiting for its turn.

    Args:
        job: its teachers are those of every job; images and patch of it are tried on them.
        max_guests: links that are remembered; of more, the one that has asked least recently is forgotten, with its
            aggregator if no other has the same.
        threads: answers at a time (Ray's `max_concurrency`).
    """

    def __init__(self, job: TeacherJob, max_guests: int, threads: int) -> None:
        self._job = job
        self._max_guests = max_guests
        self._teachers = TeacherWorker(dataclasses.replace(job, aggregator=None)).networks
        self._aggregators: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
        self._guests: OrderedDict[str, _Guest] = OrderedDict()
        self._desk = threading.Lock()
        self._threads = threads
        self._places = threading.Semaphore(threads)
        self._queue = threading.Lock()
        self._failures_in_a_row = 0
        self._watchdog = Watchdog()

    def ping(self) -> None:
        """Answers once the teachers have loaded (Ray runs it after `__init__`)."""

    def greet(self, name: str, link: Any, job: TeacherJob, hang_seconds: float) -> str:
        """Work for this link from now on, too; returns the digest of its plan.

        Args:
            name: of the link, under which it asks.
            link: handle of its actor, which is told when an answer is begun.
            job: of the teachers that are here. What it says of the worker's own resources does not count.
            hang_seconds: of the link; see `Patience`.

        Errors: ValueError where images or aggregator are not what the job says.
        """
        patience = Patience(hang_seconds)
        with self._desk, self._watchdog.over(LONGER * patience.hung_seconds(answers=0)):
            job = dataclasses.replace(job, pool=self._job.pool)
            digest = None if job.aggregator is None else digest_file(job.aggregator)
            known = None if digest is None else self._aggregators.get(digest)
            worker = TeacherWorker(job, FrozenNetworks(self._teachers.teachers, known))
            if digest is not None and worker.networks.aggregator is not None:
                self._aggregators[digest] = worker.networks.aggregator
            self._guests[name] = _Guest(link, worker, patience)
            self._guests.move_to_end(name)
            while len(self._guests) > self._max_guests:
                self._guests.popitem(last=False)
            return job.plan.digest

    def answer(self, name: str, number: int, step: int, slot: int, alone: bool) -> tuple[Meta, Answer]:
        """See `TeacherWorker.answer`; the link is told when it begins with the lease of this number.

        `alone`: nothing else is answered meanwhile, because workers died of this slot or of what was beside it.
        Errors: UnknownLink; those of the teachers.
        """
        with self._place(alone):
            guest = self._guest(name)
            # Nobody waits for this. Of a process that dies at once, nothing may arrive: then no slot is blamed.
            guest.link.began.remote(number)
            try:
                with self._watchdog.over(guest.hung_seconds):
                    answer = guest.worker.answer(step, slot)
            except Exception:
                self._failures_in_a_row += 1
                raise
            self._failures_in_a_row = 0
            guest.answers += 1
            return answer

    def exit_if_broken(self) -> None:
        """End the process, which Ray starts again, if it has failed at everything lately, whoever asked.

        One link alone cannot tell: a job whose aggregator answers NaN fails on every host, and is no fault of theirs.
        """
        if self._failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
            logger.error("%d failures in a row: this process is started again", self._failures_in_a_row)
            os._exit(1)

    def _guest(self, name: str) -> _Guest:
        with self._desk:
            if name not in self._guests:
                raise UnknownLink(name)
            self._guests.move_to_end(name)
            return self._guests[name]

    @contextlib.contextmanager
    def _place(self, alone: bool) -> Iterator[None]:
        wanted = self._threads if alone else 1
        # One at a time takes places: two that each held one and wanted all would wait for ever.
        with self._queue:
            for _ in range(wanted):
                self._places.acquire()
        try:
            yield
        finally:
            self._places.release(wanted)
