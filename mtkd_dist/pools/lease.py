"""What a teacher worker is asked: leases, and one worker's share of them. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

Key = tuple[int, int]
"""(step, slot)"""


@dataclass(frozen=True)
class Lease:
    """One key in the hands of one worker. `number` tells leases of the same key apart."""

    key: Key
    worker: str
    number: int
    alone: bool = False
    """Workers died that were at this key, perhaps among others: nothing is to be worked at beside it."""


@dataclass
class Call:
    """A lease that the worker has not answered."""

    lease: Lease
    began: float | None
    """When it was the lease's turn, as far as known: a worker of several links is at those of others in between."""


@dataclass
class WorkerLeases:
    """Of one living worker."""

    heard: float
    """When it joined or answered last."""
    calls: dict[int, Call] = field(default_factory=dict)
    """By the number of the lease, oldest first; also what was taken back."""
    answers: int = 0
    failures_in_a_row: int = 0
    late: bool = False

    def in_hand(self, concurrency: int) -> list[Lease]:
        """What it works at, where it works at so many keys at a time."""
        begun = (call.lease for call in self.calls.values() if call.began is not None)
        return list(itertools.islice(begun, concurrency))

    def silent_seconds(self, now: float) -> float:
        """Since when it has been at the first of its leases; a worker may hold two, and works at one."""
        for call in self.calls.values():
            if call.began is not None:
                return now - max(call.began, self.heard)
        return 0.0
