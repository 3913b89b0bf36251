"""Where the time of a pool goes. Pure: the caller brings the seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from mtkd_dist.config.shares import PoolShares


@dataclass
class PoolClock:
    """Seconds of all workers of a pool together.

    Teachers: *working* in the teacher half; *starved* holding a lease but idle (the link is slow to bring work);
    *held back* without a lease because window or credits are used up (the students are the limit).
    Students: *working* in forward, backward and optimizer step; *starved* waiting for a batch (the teachers are the
    limit); *held back* waiting for checkpoints and for other ranks.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"working": 0.0, "starved": 0.0, "held_back": 0.0})

    def add(self, working: float = 0.0, starved: float = 0.0, held_back: float = 0.0) -> None:
        for name, value in (("working", working), ("starved", starved), ("held_back", held_back)):
            self.seconds[name] += max(0.0, value)

    def shares(self) -> PoolShares:
        """Fractions of the time seen so far; all 0 before any."""
        total = sum(self.seconds.values()) or 1.0
        return PoolShares(**{name: value / total for name, value in self.seconds.items()})


class TeacherClock:
    """Books the seconds of teacher workers from what the link sees: joins, leases, answers, losses."""

    def __init__(self) -> None:
        self.pool = PoolClock()
        self._since: dict[str, float] = {}
        self._leases: dict[str, int] = {}

    def joined(self, worker: str, now: float) -> None:
        self._since[worker] = now
        self._leases[worker] = 0

    def leased(self, worker: str, now: float) -> None:
        if self._leases[worker] == 0:
            self.pool.add(held_back=now - self._since[worker])
            self._since[worker] = now
        self._leases[worker] += 1

    def answered(self, worker: str, now: float, busy_seconds: float | None = None) -> None:
        """With several leases out, the time since the answer before counts, so that no second is booked twice.

        `busy_seconds` None: a failure, which says nothing of it; all that time is taken for work.
        """
        if worker not in self._since:
            return
        passed = now - self._since[worker]
        busy = passed if busy_seconds is None else busy_seconds
        self.pool.add(working=busy, starved=passed - busy)
        self._since[worker] = now
        self._leases[worker] -= 1

    def lost(self, worker: str) -> None:
        self._since.pop(worker, None)
        self._leases.pop(worker, None)
