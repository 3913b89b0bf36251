"""The end of a process that hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import threading
import time
from collections.abc import Callable, Iterator

LEAST_SECONDS = 1e-3
STDERR = 2


class Watchdog:
    """Ends this process once something that it watches takes longer than it may; where that was, its log tells.

    It is one of Python's own, which asks for no GIL: what hangs may hold that. There is one in a process.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: dict[object, float] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def over(self, seconds: float) -> Iterator[None]:
        """What is in the `with` block may take so long. There may be several at a time."""
        watched = object()
        with self._lock:
            self._ends[watched] = self._clock() + seconds
            self._set()
        try:
            yield
        finally:
            with self._lock:
                del self._ends[watched]
                self._set()

    def _set(self) -> None:
        if self._ends:
            seconds = max(min(self._ends.values()) - self._clock(), LEAST_SECONDS)
            faulthandler.dump_traceback_later(seconds, exit=True, file=STDERR)
        else:
            faulthandler.cancel_dump_traceback_later()
