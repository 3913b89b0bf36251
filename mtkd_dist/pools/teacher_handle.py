"""What a link asks of a teacher worker, whether it has it to itself or shares it with other links."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle

from mtkd_dist.pools.lease import Lease
from mtkd_dist.pools.wire import Meta


class UnknownLink(RuntimeError):
    """A teacher worker was asked by a link that it does not know, or no longer: it is to be greeted (`ping`) again."""


class TeacherHandle(Protocol):
    """No call waits for the worker; where it has died, what they return raises RayActorError."""

    def ping(self) -> Awaitable[str]:
        """Digest of the plan by which the worker answers this link, once it has loaded."""
        ...

    def answer(self, lease: Lease) -> tuple[Awaitable[Meta], Any]:
        """The record of an answer, and the reference to it. Errors of the first: UnknownLink; those of the teachers."""
        ...

    def kill(self) -> None:
        """Ray starts it again."""
        ...

    def doubt(self) -> bool:
        """The worker has failed several times in a row. Returns whether it was killed for it."""
        ...


class OwnTeacher:
    """A `TeacherWorker` actor that works for one link."""

    def __init__(self, worker: ActorHandle) -> None:
        self._worker = worker

    def ping(self) -> Awaitable[str]:
        plan: Awaitable[str] = self._worker.ping.remote()
        return plan

    def answer(self, lease: Lease) -> tuple[Awaitable[Meta], Any]:
        meta, answer = self._worker.answer.options(num_returns=2).remote(*lease.key)
        return meta, answer

    def kill(self) -> None:
        ray.kill(self._worker, no_restart=False)

    def doubt(self) -> bool:
        # It may be the worker, not its keys: a GPU that has fallen off the bus fails at everything.
        self.kill()
        return True
