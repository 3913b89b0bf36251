"""One teacher pool for many trainings at once, such as the trials of a sweep: who started it holds the teachers, and
each training has links of its own to them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from mtkd_dist.config.tree import LinkConfig, TeacherPrecision
from mtkd_dist.pools.lease import Lease
from mtkd_dist.pools.links import Links
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.starting import Starting
from mtkd_dist.pools.teacher_host import TeacherHost
from mtkd_dist.pools.teacher_pool import actor_options, answers_at_a_time
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherJob, digests_of
from mtkd_dist.pools.wire import Meta

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedTeachers:
    """What a training needs to reach the hosts, from any process of the cluster."""

    hosts: dict[str, ActorHandle]
    teachers: tuple[TeacherFile, ...]
    """With their digests."""
    scale: int
    precision: TeacherPrecision
    concurrency: int
    """Slots that a host answers at a time."""

    def check(self, job: TeacherJob) -> None:
        """Errors: ValueError for a job of other teachers, in words."""
        for what, found, hosted in (
            ("the scale", job.scale, self.scale),
            ("teacher_precision", job.precision, self.precision),
            ("teachers", _in_words(job.teachers), _in_words(self.teachers)),
        ):
            if found != hosted:
                raise ValueError(
                    f"{what} of this training: {found}; of the teachers that all trainings share: {hosted}. They must "
                    "be the same: take them out of what is searched, or render their answers (teacher_outputs: cached)"
                )


class TeacherHosts(contextlib.AbstractContextManager[SharedTeachers]):
    """Hosts of shared teachers, for as long as a `with` block lasts; it is entered once all of them have loaded.

    To be started outside of the trainings that use them, so that they belong to none of their placement groups, and
    before them, so that these do not take the room.

    Args:
        job: any of the jobs that they are to answer; its aggregator and method do not matter.
        trainings: that use them at the same time.
        say: takes a sentence for log and screen.

    Errors on entering: TrainingFailed when a host cannot load its teachers, or when the cluster has no room for all.
    """

    def __init__(
        self,
        job: TeacherJob,
        pool: PoolSize,
        trainings: int,
        say: Callable[[str], object] = logger.warning,
    ) -> None:
        digests = digests_of(job.teachers)
        teachers = tuple(dataclasses.replace(teacher, digest=digests[teacher.name]) for teacher in job.teachers)
        self._job = dataclasses.replace(job, teachers=teachers, pool=pool)
        self._pool = pool
        self._trainings = trainings
        self._say = say
        self._hosts: dict[str, ActorHandle] = {}

    def __enter__(self) -> SharedTeachers:
        job, pool = self._job, self._pool
        threads = answers_at_a_time(pool)
        try:
            actor = ray.remote(TeacherHost).options(**actor_options(pool))
            for i in range(pool.workers):
                self._hosts[f"teacher-{i}"] = actor.remote(job, self._trainings, threads)
            Starting(self._hosts, pool, self._say).wait(lambda loaded: len(loaded) == pool.workers)
        except BaseException:
            self._kill()
            raise
        return SharedTeachers(self._hosts, job.teachers, job.scale, job.precision, threads)

    def __exit__(self, *_: object) -> None:
        self._kill()

    def _kill(self) -> None:
        for host in self._hosts.values():
            ray.kill(host)


class SharedTeacherPool(contextlib.AbstractContextManager["SharedTeacherPool"]):
    """Links of one training to the shared hosts, for as long as a `with` block lasts; `heal` keeps them running in it.

    Its leases, credits and quarantine are its own. It ends nothing but its links.

    Args:
        shared: the hosts.
        job: of this training. Errors: ValueError where its teachers are not those of the hosts.
        say: takes a sentence for log and screen; it travels to the links.
    """

    def __init__(
        self,
        shared: SharedTeachers,
        job: TeacherJob,
        steps: int,
        slots_per_step: int,
        config: LinkConfig,
        say: Callable[[str], object] = logger.warning,
    ) -> None:
        shared.check(job)
        self._shared = shared
        self._job = job
        self._steps = steps
        self._slots_per_step = slots_per_step
        self._config = config
        self._say = say

    def __enter__(self) -> SharedTeacherPool:
        self._links = Links(
            self._job,
            self._steps,
            self._slots_per_step,
            self._config,
            {
                name: HostedTeacher(host, self._job, self._config.hang_seconds)
                for name, host in self._shared.hosts.items()
            },
            self._shared.concurrency,
            shared=True,
            say=self._say,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._links.kill()

    @property
    def links(self) -> list[ActorHandle]:
        return self._links.handles

    def heal(self) -> None:
        """A dead link gets a successor. Errors: LinkError when the block has been left."""
        self._links.heal()

    def stats(self, timeout: float) -> dict[str, Any]:
        """As `TeacherPool.stats`; teachers that are at work for other trainings are *starved* here."""
        return self._links.stats(timeout)


class HostedTeacher:
    """A `TeacherHost` as one link sees it; see `TeacherHandle`. The job travels to the host with each `ping` only."""

    def __init__(self, host: ActorHandle, job: TeacherJob, hang_seconds: float) -> None:
        self._host = host
        self._job = job
        self._hang_seconds = hang_seconds
        self._name = uuid.uuid4().hex

    def ping(self) -> Awaitable[str]:
        link = ray.get_runtime_context().current_actor
        plan: Awaitable[str] = self._host.greet.remote(self._name, link, self._job, self._hang_seconds)
        return plan

    def answer(self, lease: Lease) -> tuple[Awaitable[Meta], Any]:
        call = self._host.answer.options(num_returns=2)
        meta, answer = call.remote(self._name, lease.number, *lease.key, lease.alone)
        return meta, answer

    def kill(self) -> None:
        ray.kill(self._host, no_restart=False)

    def doubt(self) -> bool:
        # It sees what it does for others.
        self._host.exit_if_broken.remote()
        return False


def _in_words(teachers: Sequence[TeacherFile]) -> str:
    digests = digests_of(teachers)
    return ", ".join(f"{t.name} (SHA-256 {digests[t.name][:12]}, input range {t.input_range})" for t in teachers)
