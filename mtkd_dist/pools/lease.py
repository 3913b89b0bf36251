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


@dataclass
class WorkerLeases:
    """Of one living worker."""

    heard: float
    """When it joined or answered last."""
    calls: dict[int, tuple[Lease, float]] = field(default_factory=dict)
    """What it was asked and has not answered, with the time of asking, oldest first; also what was taken back."""
    answers: int = 0
    failures_in_a_row: int = 0
    late: bool = False

    def in_hand(self, concurrency: int) -> list[Key]:
        """What it works at, where it works at so many keys at a time."""
        return [lease.key for lease, _ in itertools.islice(self.calls.values(), concurrency)]

    def silent_seconds(self, now: float) -> float:
        """Since when it has been at the first of its leases; a worker may hold two, and works at one."""
        for _, asked in self.calls.values():
            return now - max(asked, self.heard)
        return 0.0
