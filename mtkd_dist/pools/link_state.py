"""The decisions of the link: which worker gets which key, and how much may be in flight. Pure: no clock, no Ray.

A key is (step, slot). The link works on a window of steps that starts at the oldest step which some student has not
acknowledged. Inside the window the smallest key that is neither leased nor ready goes to the worker with the fewest
leases, while byte credits last:

    bytes leased (estimated) + bytes ready + one more slot <= max_bytes

The oldest step is exempt, otherwise students could wait for credits that only they can free. Whatever is lost (a dead
worker, a restarted student group) is simply neither leased nor ready any more and is leased again: the samples of a
key are a pure function of the plan, so the answer is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

Key = tuple[int, int]
"""(step, slot)"""


MAX_LOSSES = 3
"""Workers that may die over one key before it is taken for the cause."""


class StaleAttempt(RuntimeError):
    """A student of an earlier attempt asked; the student group has been restarted since."""


@dataclass(frozen=True)
class Lease:
    """One key in the hands of one worker. `number` tells leases of the same key apart."""

    key: Key
    worker: str
    number: int


class LinkState:
    """
    Args:
        steps: number of steps of the plan; keys run from (first, 0) to (steps - 1, slots_per_step - 1).
        window_steps: how many steps the teachers may be ahead of the slowest student, at least 1.
        max_bytes: byte credits; see the module's formula.
        leases_per_worker: 2 keeps a worker busy while its answer is on its way.
    """

    def __init__(
        self,
        *,
        steps: int,
        slots_per_step: int,
        window_steps: int,
        max_bytes: int,
        leases_per_worker: int = 2,
    ) -> None:
        self.steps = steps
        self.slots_per_step = slots_per_step
        self.window_steps = window_steps
        self.max_bytes = max_bytes
        # Of an answer nothing is known before the first: until then only the oldest step is leased.
        self.slot_bytes = max_bytes
        self._largest = 0
        self.leases_per_worker = leases_per_worker
        self.base = 0
        self.leased: dict[Key, Lease] = {}
        self.ready: dict[Key, int] = {}
        self._attempt = 0
        self._next_step: dict[int, int] = {}
        self._workers: dict[str, int] = {}
        self._leases = 0
        self._losses: dict[Key, int] = {}

    @property
    def workers(self) -> list[str]:
        return list(self._workers)

    @property
    def bytes_in_flight(self) -> int:
        """Bytes that are ready plus the estimate for what is leased."""
        return sum(self.ready.values()) + len(self.leased) * self.slot_bytes

    def add_worker(self, worker: str) -> None:
        self._workers.setdefault(worker, 0)

    def lose_worker(self, worker: str) -> list[Key]:
        """Forget a dead worker; its keys become free and are returned."""
        self._workers.pop(worker, None)
        lost = [key for key, lease in self.leased.items() if lease.worker == worker]
        for key in lost:
            del self.leased[key]
            self._losses[key] = self._losses.get(key, 0) + 1
        return lost

    @property
    def deadly_key(self) -> Key | None:
        """A key over which `MAX_LOSSES` workers have died: to lease it again would only kill the next."""
        return next((key for key, count in self._losses.items() if count >= MAX_LOSSES), None)

    def lose_answers(self, attempt: int, keys: list[Key]) -> None:
        """Answers were ready but cannot be read any more (their node died): they are leased again."""
        self.check(attempt)
        for key in keys:
            self.ready.pop(key, None)

    def lease(self) -> Lease | None:
        """The next lease, or None when every worker is busy or nothing may be leased (see `held_back`)."""
        free = [worker for worker, count in self._workers.items() if count < self.leases_per_worker]
        key = self._next_key()
        if not free or key is None:
            return None
        worker = min(free, key=lambda name: self._workers[name])
        self._workers[worker] += 1
        self._leases += 1
        self.leased[key] = Lease(key, worker, self._leases)
        return self.leased[key]

    def holds(self, lease: Lease) -> bool:
        """Whether this very lease is still out; an answer or an error of any other is to be dropped."""
        return self.leased.get(lease.key) == lease

    def answered(self, lease: Lease, size_bytes: int) -> bool:
        """Take an answer; False (drop it) when the lease is no longer out or no student needs the step any more."""
        if not self.holds(lease):
            return False
        del self.leased[lease.key]
        self._workers[lease.worker] -= 1
        self.slot_bytes = self._largest = max(self._largest, size_bytes)
        if lease.key[0] < self.base:
            return False
        self.ready[lease.key] = size_bytes
        self._losses.pop(lease.key, None)
        return True

    def attach(self, attempt: int, rank: int, world_size: int, step: int) -> list[Key]:
        """A student joins at `step`. A newer attempt starts the window anew there; returns the keys to drop.

        All of them: the students may have died of an answer that cannot be read, and to answer again is cheap.

        Errors: StaleAttempt when a newer attempt has attached already.
        """
        self.check(attempt)
        dropped: list[Key] = []
        if attempt > self._attempt:
            self._attempt = attempt
            self._next_step = dict.fromkeys(range(world_size), step)
            self.base = step
            dropped = list(self.ready)
            self.ready.clear()
        self._next_step[rank] = step
        return dropped

    def check(self, attempt: int) -> None:
        if attempt < self._attempt:
            raise StaleAttempt(f"attempt {attempt} of the students was replaced by attempt {self._attempt}")

    def acknowledge(self, attempt: int, rank: int, step: int) -> list[Key]:
        """`rank` has done the optimizer step `step`; returns the keys that no student needs any more.

        Calls may arrive out of order: a later step speaks for the earlier ones.
        """
        self.check(attempt)
        self._next_step[rank] = max(self._next_step[rank], step + 1)
        self.base = min(self._next_step.values())
        done = [key for key in self.ready if key[0] < self.base]
        for key in done:
            del self.ready[key]
        return done

    @property
    def held_back(self) -> bool:
        """Nothing may be leased: the window is full, credits are used up, or the plan is at its end."""
        return self._next_key() is None

    def _next_key(self) -> Key | None:
        if not self._next_step:
            return None
        for step in range(self.base, min(self.base + self.window_steps, self.steps)):
            for slot in range(self.slots_per_step):
                key = (step, slot)
                if key not in self.leased and key not in self.ready:
                    credit = step == self.base or self.bytes_in_flight + self.slot_bytes <= self.max_bytes
                    return key if credit else None
        return None
