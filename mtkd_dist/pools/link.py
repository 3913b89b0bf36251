"""The link as a Ray actor: a thin shell around `LinkState`. It calls the teachers, so it owns what they return, and a
teacher's death takes no answer with it. Tensors never pass through it: only references and small records do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, RayActorError

from mtkd_dist.pools.clock import TeacherClock
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.pools.link_state import MAX_LOSSES, Lease, LinkState

logger = logging.getLogger(__name__)

REVIVE_SECONDS = 0.5
"""Pause between two questions to a teacher worker that Ray is restarting."""


class LinkError(RuntimeError):
    """The link cannot deliver; the message says which pool failed and why."""


class Link:
    """Args:
    state: decides; see `LinkState`.
    workers: name -> handle of a `TeacherWorker` actor.
    starved_seconds: a student that waits longer than this for a batch gets a LinkError.
    """

    def __init__(self, state: LinkState, workers: dict[str, ActorHandle], starved_seconds: float) -> None:
        self._state = state
        self._workers = workers
        self._starved_seconds = starved_seconds
        self._answers: dict[tuple[int, int], Any] = {}
        self._changed = asyncio.Condition()
        self._error: str | None = None
        self._clock = TeacherClock()
        self._attempts = 0
        self._lost_workers = 0
        self._started = False
        self._tasks: set[asyncio.Task[None]] = set()
        for name in workers:
            self._state.add_worker(name)

    async def new_attempt(self) -> int:
        """A number for a newly started student group; a larger one fences off all smaller ones."""
        self._attempts += 1
        return self._attempts

    async def attach(self, attempt: int, rank: int, world_size: int, step: int) -> None:
        """A student says where it starts; the first one sets the teachers to work."""
        for key in self._state.attach(attempt, rank, world_size, step):
            self._answers.pop(key, None)
        if not self._started:
            # Loading networks and starting students is not time of the pool.
            self._started = True
            for name in self._state.workers:
                self._clock.joined(name, time.monotonic())
        self._pump()

    async def take(self, attempt: int, step: int, slots: list[int]) -> list[Any]:
        """References to the answers of `slots`, in this order, as soon as all are there.

        Errors: StaleAttempt for students of an earlier attempt; LinkError when a teacher half failed, when no teacher
        is left, or after `starved_seconds`.
        """
        keys = [(step, slot) for slot in slots]

        def ready() -> bool:
            self._state.check(attempt)
            return self._error is not None or all(key in self._answers for key in keys)

        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(ready), self._starved_seconds)
        except TimeoutError:
            raise LinkError(
                f"no answer for step {step} within {self._starved_seconds:g} s: {len(self._state.workers)} of "
                f"{len(self._workers)} teacher workers are alive, {len(self._state.leased)} leases are out, "
                f"{self._state.bytes_in_flight} bytes in flight. If the teachers are merely slow, raise "
                "link.starved_seconds; otherwise look into the log for the teacher workers' last words"
            ) from None
        if self._error is not None:
            raise LinkError(self._error)
        return [self._answers[key] for key in keys]

    async def lost(self, attempt: int, step: int, slots: list[int]) -> None:
        """A student could not read the answers that it took; they are made again."""
        keys = [(step, slot) for slot in slots]
        self._state.lose_answers(attempt, keys)
        for key in keys:
            self._answers.pop(key, None)
        self._pump()

    async def acknowledge(self, attempt: int, rank: int, step: int) -> None:
        """`rank` has done the optimizer step: what no student needs any more is freed."""
        for key in self._state.acknowledge(attempt, rank, step):
            self._answers.pop(key, None)
        self._pump()

    async def stats(self) -> dict[str, Any]:
        """`shares` (PoolShares of the teachers), `bytes_in_flight`, `ready`, `leased`, `lost_workers`."""
        return {
            "shares": self._clock.pool.shares(),
            "bytes_in_flight": self._state.bytes_in_flight,
            "ready": len(self._state.ready),
            "leased": len(self._state.leased),
            "lost_workers": self._lost_workers,
        }

    def _pump(self) -> None:
        while (lease := self._state.lease()) is not None:
            self._clock.leased(lease.worker, time.monotonic())
            self._spawn(self._answer(lease))

    def _spawn(self, coroutine: Any) -> None:
        # The loop keeps only weak references to tasks.
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        """A task that fails would leave its lease out for ever: the students are told instead."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the link failed", exc_info=error)
            self._spawn(self._fail(f"the link itself failed: {type(error).__name__}: {error}"))

    async def _answer(self, lease: Lease) -> None:
        step, slot = lease.key
        meta_ref, answer_ref = self._workers[lease.worker].answer.options(num_returns=2).remote(step, slot)
        try:
            # Only the small record is awaited: awaiting the answer would copy it to this node.
            meta = await meta_ref
        except RayActorError:
            if self._state.holds(lease):
                self._state.lose_worker(lease.worker)
                self._clock.lost(lease.worker)
                self._lost_workers += 1
                if (key := self._state.deadly_key) is not None:
                    await self._fail(
                        f"{MAX_LOSSES} teacher workers died at step {key[0]}, slot {key[1]}; out of memory? A smaller "
                        "link.slot_size or patch needs less; the log has their last words"
                    )
                self._spawn(self._revive(lease.worker))
        except Exception as error:
            logger.exception("the teacher half failed")
            await self._fail(f"teacher worker {lease.worker} failed at step {step}, slot {slot}: {root_cause(error)}")
        else:
            if self._state.answered(lease, meta["bytes"]):
                self._answers[lease.key] = answer_ref
            self._clock.answered(lease.worker, time.monotonic(), meta["busy_seconds"])
        self._pump()
        async with self._changed:
            self._changed.notify_all()

    async def _revive(self, worker: str) -> None:
        """Wait until Ray has restarted a dead worker, then give it leases again."""
        while True:
            try:
                await self._workers[worker].ping.remote()
            except ActorDiedError as error:
                # Ray has given it up; the others go on without it.
                if not self._state.workers and not self._reviving(worker):
                    await self._fail(f"the last teacher worker died and could not be restarted: {root_cause(error)}")
                self._workers.pop(worker, None)
                return
            except RayActorError:
                await asyncio.sleep(REVIVE_SECONDS)
            else:
                self._state.add_worker(worker)
                self._clock.joined(worker, time.monotonic())
                self._pump()
                return

    def _reviving(self, worker: str) -> bool:
        """Whether another lost worker may still come back."""
        return any(name not in self._state.workers and name != worker for name in self._workers)

    async def _fail(self, message: str) -> None:
        self._error = self._error or message
        async with self._changed:
            self._changed.notify_all()


LinkActor = ray.remote(num_cpus=0, max_concurrency=1000)(Link)
