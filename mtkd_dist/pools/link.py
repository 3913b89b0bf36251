"""The link as a Ray actor: a thin shell around `LinkState`. It calls the teachers, so it owns what they return, and a
teacher's death takes no answer with it. Tensors never pass through it: only references and small records do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.clock import TeacherClock
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.pools.evidence import MAX_FAILURES, MAX_LOSSES
from mtkd_dist.pools.lease import Key, Lease
from mtkd_dist.pools.link_state import MAX_FAILURES_IN_A_ROW, LinkState, WrongPlan
from mtkd_dist.pools.patience import FIRST
from mtkd_dist.pools.teacher_handle import TeacherHandle, UnknownLink

logger = logging.getLogger(__name__)

REVIVE_SECONDS = 0.5
"""Pause between two questions to a teacher worker that Ray is restarting."""
TICK_SECONDS = 0.1
"""While anything is out, time-outs are looked at this often."""


class LinkError(RuntimeError):
    """The link cannot deliver; the message says which pool failed and why."""


class Link:
    """Args:
    state: decides; see `LinkState`.
    workers: by name; each joins once it has loaded.
    config: `starved_seconds`, `on_deadly`, and for words `hang_seconds`.
    describe: (step, slot) -> its photographs in words.
    say: takes a sentence for the screen.
    """

    def __init__(
        self,
        state: LinkState,
        workers: dict[str, TeacherHandle],
        config: LinkConfig,
        describe: Callable[[int, int], str],
        say: Callable[[str], object],
    ) -> None:
        self._state = state
        self._workers = workers
        self._config = config
        self._describe = describe
        self._say = say
        self._answers: dict[Key, Any] = {}
        self._arrivals: dict[Key, asyncio.Event] = {}
        self._busy = asyncio.Event()
        self._error: str | None = None
        self._clock = TeacherClock()
        self._lost_workers = 0
        self._last_words: dict[Key, str] = {}
        self._hung: Counter[Key] = Counter()
        """Workers that were killed because they hung, at keys without an answer."""
        self._started = False
        self._moved = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Let the workers join and watch the time; ends only with the link, which is how others learn of that."""
        for worker in self._workers:
            self._spawn(self._join(worker))
        self._spawn(self._watch_the_time())
        await asyncio.Event().wait()

    async def attach(self, attempt: int, rank: int, world_size: int, step: int, plan: str) -> None:
        """A student says where it starts; the first one sets the teachers to work."""
        for key in self._state.attach(attempt, rank, world_size, step, plan):
            self._answers.pop(key, None)
        self._moved = time.monotonic()
        if not self._started:
            # Loading networks and starting students is not time of the pool.
            self._started = True
            for name in self._state.workers:
                self._clock.joined(name, time.monotonic())
        self._wake()  # those of an earlier attempt
        self._pump()

    async def take(self, attempt: int, rank: int, step: int, slots: list[int]) -> list[Any]:
        """References to the answers of `slots`, in this order, as soon as all are there; None for one that is skipped.

        A rank that asks for a step has read all before it: what no rank needs any more is freed. To say so in a call
        of its own would cost the link as much again as this one.

        Errors: StaleAttempt for students of an earlier attempt; LinkError when a teacher half failed, when no teacher
        is left, or when the teachers owe an answer and nothing has moved for `starved_seconds`.
        """
        keys = [(step, slot) for slot in slots]
        self._moved = asked = time.monotonic()
        for key in self._state.acknowledge(attempt, rank, step - 1):
            self._answers.pop(key, None)
        self._pump()
        while True:
            self._state.check(attempt)
            if self._error is not None:
                raise LinkError(self._error)
            missing = next((k for k in keys if k not in self._answers and k not in self._state.skipped), None)
            if missing is None:
                return [self._answers.get(key) for key in keys]
            until = max(asked, self._moved) + self._config.starved_seconds
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    await self._arrivals.setdefault(missing, asyncio.Event()).wait()
            except TimeoutError:
                if not self._state.is_owed(missing):
                    asked = time.monotonic()  # the students hold themselves back: another rank is behind
                elif time.monotonic() >= max(asked, self._moved) + self._config.starved_seconds:
                    raise LinkError(self._starved(step)) from None

    async def began(self, number: int) -> None:
        """A worker that other links share is now at the lease of this number."""
        self._state.began(number, time.monotonic())

    async def lost(self, attempt: int, step: int, slots: list[int]) -> None:
        """A student could not read the answers that it took; they are made again."""
        for key in self._state.lose_answers(attempt, [(step, slot) for slot in slots]):
            self._answers.pop(key, None)
        self._pump()

    async def stats(self) -> dict[str, Any]:
        """Now: `workers` that have joined, of them `late_workers`; `leased`, `ready`, `bytes_in_flight`; `shares`
        (PoolShares of the teachers). Since the link began: `lost_workers`, `hedged`, `released` (leases taken back
        from late workers), `quarantined`.
        """
        state = self._state
        return {
            "shares": self._clock.pool.shares(),
            "workers": len(state.workers),
            "late_workers": len(state.late_workers),
            "leased": len(state.leased),
            "ready": len(state.ready),
            "bytes_in_flight": state.bytes_in_flight,
            "lost_workers": self._lost_workers,
            "hedged": state.hedged,
            "released": state.released,
            "quarantined": len(state.skipped),
        }

    def _starved(self, step: int) -> str:
        state = self._state
        return (
            f"no answer for step {step}, nor any other, within {self._config.starved_seconds:g} s: of "
            f"{len(self._workers)} teacher workers {len(state.workers)} are alive ({len(state.late_workers)} of them "
            f"late) and {len(self._workers) - len(state.workers)} loading or restarting; {state.calls} leases are "
            f"out, {len(state.ready)} answers are ready, {state.bytes_in_flight} bytes in flight. If the teachers are "
            "merely slow, raise link.starved_seconds; otherwise look into the log for the teacher workers' last words"
        )

    def _pump(self) -> None:
        while self._error is None and (lease := self._state.lease(time.monotonic())) is not None:
            self._clock.leased(lease.worker, time.monotonic())
            self._spawn(self._call(lease))
            self._busy.set()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # The loop keeps only weak references to tasks.
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        """A task that fails would leave its lease out for ever: the students are told instead."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a task of the link failed", exc_info=error)
            self._fail(f"the link itself failed: {type(error).__name__}: {error}")

    async def _call(self, lease: Lease) -> None:
        meta_ref, answer_ref = self._workers[lease.worker].answer(lease)
        try:
            # Only the small record is awaited: awaiting the answer would copy it to this node.
            meta = await meta_ref
        except (RayActorError, UnknownLink):
            if self._state.holds(lease):
                self._lose(lease.worker, blame=True)
        except Exception as error:
            self._failed(lease, error)
        else:
            self._moved = now = time.monotonic()
            self._clock.answered(lease.worker, now, meta["busy_seconds"])
            if self._state.answered(lease, meta["bytes"], now):
                self._answers[lease.key] = answer_ref
                self._last_words.pop(lease.key, None)
                self._hung.pop(lease.key, None)
                self._arrived(lease.key)
        self._pump()

    def _failed(self, lease: Lease, error: Exception) -> None:
        if not self._state.holds(lease):
            return
        now = time.monotonic()
        words = f"teacher worker {lease.worker} failed at step {lease.key[0]}, slot {lease.key[1]}: {root_cause(error)}"
        logger.warning(words, exc_info=error)
        self._last_words[lease.key] = words
        self._clock.answered(lease.worker, now)
        restart = self._state.failed(lease, now)
        self._judge()
        if restart and self._error is None and self._workers[lease.worker].doubt():
            logger.warning("teacher worker %s failed %d times in a row: killed", lease.worker, MAX_FAILURES_IN_A_ROW)
            self._lose(lease.worker, blame=False)

    def _judge(self) -> None:
        """A key that harms the teachers ends the run, or is left out of it."""
        while self._error is None and (key := self._state.deadly_key) is not None:
            step, slot = key
            if self._state.died_of(key):
                why = (
                    f"{MAX_LOSSES} teacher workers died at step {step}, slot {slot} ({self._photographs(key)}); "
                    f"{self._cause(key)}; the log has their last words"
                )
            else:
                why = f"{self._last_words.pop(key)} (tried {MAX_FAILURES} times)"
            if self._config.on_deadly == "error":
                self._fail(f"{why}. link.on_deadly: skip would go on without these samples")
            else:
                self._state.skip(key)
                self._arrived(key)
                self._say(f"skipped step {step}, slot {slot}: {self._photographs(key)}, because {why}")

    def _cause(self, key: Key) -> str:
        """What workers may have died of."""
        if hung := self._hung.pop(key, 0):
            return (
                f"{hung} of them were killed because they said nothing for link.hang_seconds "
                f"({self._config.hang_seconds:g}; {FIRST:g} times that for a first answer): raise it, if the teachers "
                "are merely so slow"
            )
        return (
            "out of memory? A smaller patch or link.slot_size needs less (the stage then begins anew: --on-change "
            "restart)"
        )

    def _photographs(self, key: Key) -> str:
        try:
            return self._describe(*key)
        except (OSError, ValueError) as error:
            return f"photographs unknown: {error}"

    def _lose(self, worker: str, blame: bool) -> None:
        self._state.lose_worker(worker, blame)
        self._clock.lost(worker)
        self._lost_workers += 1
        self._judge()
        self._spawn(self._join(worker))

    async def _join(self, worker: str) -> None:
        """Wait until a worker has loaded, for the first time or after a restart by Ray, then give it leases."""
        while True:
            try:
                plan = await self._workers[worker].ping()
                self._state.add_worker(worker, plan, time.monotonic())
            except WrongPlan as error:
                self._fail(str(error))
                return
            except ActorDiedError as error:
                # Ray has given it up; the others go on without it.
                del self._workers[worker]
                left = len(self._workers)
                self._say(f"teacher worker {worker} could not be restarted, {left} are left: {root_cause(error)}")
                if not self._workers:
                    self._fail(f"the last teacher worker died and could not be restarted: {root_cause(error)}")
                return
            except RayActorError:
                await asyncio.sleep(REVIVE_SECONDS)
            except RayTaskError as error:
                self._fail(f"teacher worker {worker} cannot work for this training: {root_cause(error)}")
                return
            else:
                if self._started:
                    self._clock.joined(worker, time.monotonic())
                self._pump()
                return

    async def _watch_the_time(self) -> None:
        while True:
            await self._busy.wait()
            await asyncio.sleep(TICK_SECONDS)
            for worker in self._state.tick(time.monotonic()):
                logger.warning("teacher worker %s hangs: it is killed and started again", worker)
                self._workers[worker].kill()
                self._hung.update(self._state.in_hand(worker))
                self._lose(worker, blame=True)
            self._pump()
            if not self._state.calls:
                self._busy.clear()

    def _arrived(self, key: Key) -> None:
        if (event := self._arrivals.pop(key, None)) is not None:
            event.set()

    def _wake(self) -> None:
        """Whoever waits looks again at what has become of the link."""
        for key in list(self._arrivals):
            self._arrived(key)

    def _fail(self, message: str) -> None:
        self._error = self._error or message
        self._wake()


LinkActor = ray.remote(num_cpus=0, max_concurrency=1000)(Link)
