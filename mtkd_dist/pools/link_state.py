"""The decisions of the link: which worker gets which key, and how much may be in flight. Pure: no clock, no Ray.

A key is (step, slot) of one plan. The link works on a window of steps that starts at the oldest step which some student
has not read. Inside the window the smallest key that is neither out, ready nor skipped goes to the worker with
the fewest leases, while byte credits last:

    bytes of the leases at workers (estimated) + bytes ready + one more slot <= max_bytes

The oldest step is exempt, otherwise students could wait for credits that only they can free. Whatever is lost (a dead
worker, a restarted student group) is simply free again and is leased again: the samples of a key are a pure function
of the plan, so the answer is the same, and the first one to arrive is taken.

Time comes in as `now`, in seconds of any steady clock. What it decides is in `pools/patience.py` and `tick`.
"""

from __future__ import annotations

import heapq
from collections.abc import Set

from mtkd_dist.pools.evidence import Evidence
from mtkd_dist.pools.lease import Call, Key, Lease, WorkerLeases
from mtkd_dist.pools.patience import Patience

MAX_FAILURES_IN_A_ROW = 3
"""Of one worker, before it is started again."""


class StaleAttempt(RuntimeError):
    """A student of an earlier attempt asked; the student group has been restarted since."""


class WrongPlan(RuntimeError):
    """A student or a teacher works by another plan than this link: its step 5 has other samples."""


class LinkState:
    """
    Args:
        plan: digest of the plan; students and teachers of another are refused.
        steps: number of steps of the plan.
        slots: of each step, those that this link is for; keys run from (0, slots[0]) to (steps - 1, slots[-1]).
        window_steps: how many steps the teachers may be ahead of the slowest student, at least 1.
        max_bytes: byte credits; see the module's formula.
        patience: how long a worker may take.
        concurrency: leases that a worker works at side by side. With more than 1, a key at which a worker died is
            leased alone until it has been answered, so that no other is blamed for what it does.
        shared: the workers are those of other links too, which come in between: each says when it begins a lease
            (`began`). Until then a lease waits, which is no silence of the worker and no sign against the key.
        leases_per_worker: 2 keeps a worker busy while its answer is on its way.
    """

    def __init__(
        self,
        *,
        plan: str,
        steps: int,
        slots: range,
        window_steps: int,
        max_bytes: int,
        patience: Patience,
        concurrency: int = 1,
        shared: bool = False,
        leases_per_worker: int = 2,
    ) -> None:
        self.plan = plan
        self.steps = steps
        self.slots = slots
        self.window_steps = window_steps
        self.max_bytes = max_bytes
        self.patience = patience
        self.concurrency = concurrency
        self.shared = shared
        self.leases_per_worker = leases_per_worker
        self.slot_bytes: int | None = None
        """Of the largest answer; nothing is known before the first: until then only the oldest step is leased."""
        self.base = 0
        self.leased: dict[Key, list[Lease]] = {}
        self.ready: dict[Key, int] = {}
        self.skipped: set[Key] = set()
        """Quarantined for the rest of the run, so that a student which goes back skips them again."""
        self.hedged = 0
        self.released = 0
        """Leases taken back from late workers."""
        self._attempt = 0
        self._next_step: dict[int, int] = {}
        self._workers: dict[str, WorkerLeases] = {}
        self._leases = 0
        self._calls = 0
        self._ready_bytes = 0
        self._maker: dict[Key, str] = {}
        self._evidence = Evidence()
        self._hedges: list[Key] = []
        """Keys of slow workers, the smallest last."""
        self._slow: set[str] = set()
        # The smallest free key is the smaller one of these two; what is no longer free is passed over on the way.
        self._freed: list[Key] = []
        self._frontier: Key = (0, slots.start)

    @property
    def workers(self) -> list[str]:
        return list(self._workers)

    @property
    def late_workers(self) -> list[str]:
        """Those that get no leases until they answer."""
        return [name for name, worker in self._workers.items() if worker.late]

    @property
    def calls(self) -> int:
        """Leases that workers have not answered, with those that were taken back."""
        return self._calls

    @property
    def bytes_in_flight(self) -> int:
        """Bytes that are ready plus the estimate for what workers will answer."""
        return self._ready_bytes + self._calls * (self.slot_bytes or 0)

    def add_worker(self, worker: str, plan: str, now: float) -> None:
        """A worker joins, or comes back. Errors: WrongPlan."""
        self._check_plan(plan, f"teacher worker {worker}")
        self._workers.setdefault(worker, WorkerLeases(heard=now))

    def in_hand(self, worker: str) -> list[Key]:
        """What a living worker is at."""
        return [lease.key for lease in self._workers[worker].in_hand(self.concurrency)]

    def lose_worker(self, worker: str, blame: bool = True) -> list[Key]:
        """Forget a dead worker; the keys that become free are returned.

        `blame`: it may have died of what it was at. What waited behind that has not been touched.
        """
        lost = self._workers.pop(worker, None)
        if lost is None:
            return []
        self._calls -= len(lost.calls)
        in_hand = lost.in_hand(self.concurrency)
        keys = [lease.key for lease in in_hand]
        if blame and any(map(self._wanted, keys)):
            alone = not self.shared or self.concurrency == 1 or all(lease.alone for lease in in_hand)
            self._evidence.died(keys, alone)
        return [call.lease.key for call in lost.calls.values() if self._release(call.lease)]

    @property
    def deadly_key(self) -> Key | None:
        """A key over which workers died or failed too often: to lease it again would only harm the next."""
        return self._evidence.deadly_key

    def died_of(self, key: Key) -> bool:
        """Whether workers died of a deadly key; otherwise they failed and live."""
        return self._evidence.is_fatal(key)

    def skip(self, key: Key) -> None:
        """Quarantine: the key is done without an answer."""
        self.leased.pop(key, None)
        self._evidence.acquit(key)
        self.skipped.add(key)

    def lose_answers(self, attempt: int, keys: list[Key]) -> list[Key]:
        """Answers were ready but cannot be read (their node died): they are leased again. Returns the keys to drop.

        With them go all that the same workers made, which lie on the same nodes: each would cost a student a time-out.
        """
        self.check(attempt)
        makers = {self._maker[key] for key in keys if key in self.ready}
        return [key for key in list(self.ready) if self._maker[key] in makers and self._drop(key)]

    def tick(self, now: float) -> list[str]:
        """Look at the time. A late worker's leases are taken back, slow keys get a second lease from `lease`; returns
        workers that hang and are to be killed (tell `lose_worker`).

        Not only those of the oldest step: when a step has become the oldest, students wait for it already.
        """
        hung, self._hedges = [], []
        self._slow.clear()
        late_seconds, slow_seconds = self.patience.late_seconds, self.patience.slow_seconds
        for name, worker in self._workers.items():
            silent = worker.silent_seconds(now)
            if silent > self.patience.hung_seconds(worker.answers):
                hung.append(name)
            elif not worker.late and silent > late_seconds and self._has_another(name):
                worker.late = True
                for call in worker.calls.values():
                    self.released += call.lease in self.leased.get(call.lease.key, ())
                    self._release(call.lease)
            elif silent > slow_seconds:
                self._slow.add(name)
                calls = (call.lease for call in worker.calls.values())
                held = (lease for lease in calls if lease in self.leased.get(lease.key, ()))
                self._hedges += [lease.key for lease in held if self._wanted(lease.key)]
        self._hedges.sort(reverse=True)
        return hung

    def lease(self, now: float) -> Lease | None:
        """The next lease, or None when every worker is busy or nothing may be leased."""
        key = self._next_key()
        # What students need first goes first, were it for the second time.
        while self._hedges and (key is None or self._hedges[-1] < key):
            if len(self.leased.get(self._hedges[-1], ())) != 1:
                self._hedges.pop()  # answered since
                continue
            quick = self._least_busy(self._hedges[-1], without=self._slow)
            if quick is None or not self._has_credit():
                break
            self.hedged += 1
            return self._give(self._hedges.pop(), quick, now)
        least = None if key is None else self._least_busy(key)
        return None if key is None or least is None else self._give(key, least, now)

    def began(self, number: int, now: float) -> None:
        """A shared worker is at the lease of this number. Of one that is answered or lost, it comes too late."""
        for worker in self._workers.values():
            if number in worker.calls:
                worker.calls[number].began = now

    def holds(self, lease: Lease) -> bool:
        """Whether the worker still owes this very answer; an error of any other call is an old story."""
        worker = self._workers.get(lease.worker)
        return worker is not None and lease.number in worker.calls

    def answered(self, lease: Lease, size_bytes: int, now: float) -> bool:
        """An answer has come; False (drop it) when another was first, or no student needs the step any more."""
        worker = self._heard(lease, now)
        if worker is None:
            return False
        worker.answers += 1
        worker.failures_in_a_row = 0
        self.slot_bytes = max(self.slot_bytes or 0, size_bytes)
        self.leased.pop(lease.key, None)
        if not self._wanted(lease.key):
            return False
        self.ready[lease.key] = size_bytes
        self._maker[lease.key] = lease.worker
        self._ready_bytes += size_bytes
        self._evidence.acquit(lease.key)
        return True

    def failed(self, lease: Lease, now: float) -> bool:
        """The worker raised an error: the key is leased again, to another worker where there is one.

        Returns whether the worker has failed so often in a row that it should be started again.
        """
        worker = self._heard(lease, now)
        if worker is None:
            return False
        worker.failures_in_a_row += 1
        self._release(lease)
        if self._wanted(lease.key):
            self._evidence.failed(lease.key, lease.worker)
        return worker.failures_in_a_row >= MAX_FAILURES_IN_A_ROW

    def attach(self, attempt: int, rank: int, world_size: int, step: int, plan: str) -> list[Key]:
        """A student joins at `step`; the window starts at the smallest step of all ranks. Returns the keys to drop.

        A newer attempt drops all: the students may have died of an answer that cannot be read, and to answer again is
        cheap. Ranks of one attempt may come with different steps: they do when a link has taken the place of another.

        Errors: StaleAttempt when a newer attempt has attached already; WrongPlan.
        """
        self.check(attempt)
        self._check_plan(plan, f"student rank {rank}")
        dropped: list[Key] = []
        if attempt > self._attempt:
            self._attempt = attempt
            self._next_step = dict.fromkeys(range(world_size), step)
            dropped = [key for key in list(self.ready) if self._drop(key)]
        self._next_step[rank] = step
        return dropped + self._move_base()

    def check(self, attempt: int) -> None:
        if attempt < self._attempt:
            raise StaleAttempt(f"attempt {attempt} of the students was replaced by attempt {self._attempt}")

    def acknowledge(self, attempt: int, rank: int, step: int) -> list[Key]:
        """`rank` has read the answers of `step`; returns the keys that no student needs any more.

        Calls may arrive out of order: a later step speaks for the earlier ones. One that arrives before its rank has
        attached is dropped: the rank will say where it is.
        """
        self.check(attempt)
        if attempt > self._attempt or step < self._next_step[rank]:
            return []
        self._next_step[rank] = step + 1
        return self._move_base()

    def is_owed(self, key: Key) -> bool:
        """Whether the teachers are to answer `key` now; otherwise it waits for students to read what is there."""
        in_window = key[0] < min(self.base + self.window_steps, self.steps)
        return key in self.leased or (in_window and (key[0] <= self.base or self._has_credit()))

    def _check_plan(self, plan: str, who: str) -> None:
        if plan != self.plan:
            raise WrongPlan(
                f"{who} works by the plan {plan[:12]}, and this link by {self.plan[:12]}: seed, images, batch size or "
                "patch differ. Does a process of an earlier run still live? End it"
            )

    def _heard(self, lease: Lease, now: float) -> WorkerLeases | None:
        """The worker is done with this call; None where it does not owe it any more."""
        worker = self._workers.get(lease.worker)
        if worker is None or lease.number not in worker.calls:
            return None
        call = worker.calls.pop(lease.number)
        self._calls -= 1
        # The first answer may have warmed up or compiled.
        if worker.answers and call.began is not None:
            self.patience.took(now - max(call.began, worker.heard))
        worker.heard, worker.late = now, False
        return worker

    def _wanted(self, key: Key) -> bool:
        return key[0] >= self.base and key not in self.ready and key not in self.skipped

    def _release(self, lease: Lease) -> bool:
        """The lease is not counted on any more; returns whether that makes its key free."""
        holders = self.leased.get(lease.key, [])
        if lease not in holders:
            return False
        holders.remove(lease)
        if holders:
            return False
        del self.leased[lease.key]
        heapq.heappush(self._freed, lease.key)
        return True

    def _drop(self, key: Key) -> bool:
        self._ready_bytes -= self.ready.pop(key)
        del self._maker[key]
        heapq.heappush(self._freed, key)
        return True

    def _move_base(self) -> list[Key]:
        before, self.base = self.base, min(self._next_step.values())
        if self.base < before or self._frontier[0] < self.base:
            self._frontier = (self.base, self.slots.start)
        return [key for key in list(self.ready) if key[0] < self.base and self._drop(key)] if self.base > before else []

    def _has_another(self, name: str) -> bool:
        return any(other != name and not worker.late for other, worker in self._workers.items())

    def _least_busy(self, key: Key, without: Set[str] = frozenset()) -> str | None:
        """Who should get `key`: rather one that has not failed at it, then the one with the fewest leases."""
        failed_at = self._evidence.failed_at(key)
        suspects = self._evidence.suspects if self.concurrency > 1 else frozenset()

        def is_open(worker: WorkerLeases) -> bool:
            if key in suspects:
                return not worker.calls
            holds_one = bool(suspects) and any(call.lease.key in suspects for call in worker.calls.values())
            return len(worker.calls) < self.leases_per_worker and not holds_one

        free = (
            (name in failed_at, len(worker.calls), name)
            for name, worker in self._workers.items()
            if not worker.late and name not in without and is_open(worker)
        )
        return min(free, default=(False, 0, None))[2]

    def _give(self, key: Key, name: str, now: float) -> Lease:
        self._leases += 1
        self._calls += 1
        lease = Lease(key, name, self._leases, alone=self.concurrency > 1 and key in self._evidence.suspects)
        self._workers[name].calls[lease.number] = Call(lease, None if self.shared else now)
        self.leased.setdefault(key, []).append(lease)
        return lease

    def _has_credit(self) -> bool:
        return self.slot_bytes is not None and self.bytes_in_flight + self.slot_bytes <= self.max_bytes

    def _is_free(self, key: Key) -> bool:
        return self._wanted(key) and key not in self.leased

    def _next_key(self) -> Key | None:
        if not self._next_step:
            return None
        end = min(self.base + self.window_steps, self.steps)
        while self._freed and not self._is_free(self._freed[0]):
            heapq.heappop(self._freed)
        while self._frontier[0] < end and not self._is_free(self._frontier):
            step, slot = self._frontier
            self._frontier = (step, slot + 1) if slot + 1 < self.slots.stop else (step + 1, self.slots.start)
        key = min(self._freed[0], self._frontier) if self._freed else self._frontier
        return key if key[0] < end and (key[0] == self.base or self._has_credit()) else None
