"""How long a teacher worker may take before the link acts: measured on the workers themselves. Pure."""

from __future__ import annotations

import math
from collections import deque

KEPT = 200
"""Durations that are remembered."""
NEEDED = 20
"""Durations before anything is said of what is usual."""
SLOW, SLOW_SECONDS = 2.0, 0.1
"""Multiple of the p99 after which an idle worker is asked as well, and at least this long."""
LATE, LATE_SECONDS = 5.0, 1.0
"""Multiple of the p99 after which leases are taken back, and at least this long."""
FIRST = 5.0
"""Times as long may the first answer of a worker take: it may compile its networks."""


class Patience:
    """`hang_seconds`: a worker that is silent for so long is taken for hung."""

    def __init__(self, hang_seconds: float) -> None:
        self._hang_seconds = hang_seconds
        self._seconds: deque[float] = deque(maxlen=KEPT)
        self._p99: float | None = None

    def took(self, seconds: float) -> None:
        self._seconds.append(seconds)
        self._p99 = None

    @property
    def p99(self) -> float | None:
        """Seconds; None while too few answers are known."""
        if self._p99 is None and len(self._seconds) >= NEEDED:
            self._p99 = sorted(self._seconds)[math.ceil(0.99 * len(self._seconds)) - 1]
        return self._p99

    @property
    def slow_seconds(self) -> float:
        return math.inf if self.p99 is None else max(SLOW_SECONDS, SLOW * self.p99)

    @property
    def late_seconds(self) -> float:
        return math.inf if self.p99 is None else max(LATE_SECONDS, LATE * self.p99)

    def hung_seconds(self, answers: int) -> float:
        """Of a worker that has given so many answers since it was started."""
        return self._hang_seconds if answers else FIRST * self._hang_seconds
