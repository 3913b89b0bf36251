"""Ctrl-C once: those who train save and end. Twice, or once and in vain for a minute: stop at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from mtkd_dist.pools.cluster import interrupt

LIMIT_SECONDS = 60.0
"""So long those who were asked to save may take; a scheduler that sends SIGTERM may wait for less."""
FINISHING = "finishing the step and saving; Ctrl-C again stops at once"


class Leave:
    """What was asked for by now. Pure."""

    def __init__(self, limit_seconds: float = LIMIT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_seconds = limit_seconds
        self._clock = clock
        self._asked_at: float | None = None

    def ask(self) -> bool:
        """One more Ctrl-C; returns whether it is one to stop at once."""
        if self._asked_at is not None:
            return True
        self._asked_at = self._clock()
        return False

    @property
    def asked(self) -> bool:
        """Whether everybody is to save and end."""
        return self._asked_at is not None

    @property
    def overdue(self) -> bool:
        """Whether those who were asked have taken too long."""
        return self._asked_at is not None and self._clock() - self._asked_at > self._limit_seconds

    def check(self) -> None:
        """Errors: KeyboardInterrupt where it is overdue."""
        if self.overdue:
            raise KeyboardInterrupt(f"Nothing more was saved within {self._limit_seconds:g} s.")


@contextlib.contextmanager
def leaving() -> Iterator[Leave]:
    """While the block lasts, the first Ctrl-C, or SIGTERM where that is one, only asks; the next one interrupts.

    Only on the main thread; elsewhere nobody ever asks.
    """
    leave = Leave()
    if threading.current_thread() is not threading.main_thread():
        yield leave
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        if leave.ask():
            handler = before[signal.SIGINT]
            (handler if callable(handler) else signal.default_int_handler)(number, frame)

    # A job in the background of a shell ignores Ctrl-C, and goes on doing so.
    asking = [signal.SIGINT] if callable(before[signal.SIGINT]) else []
    asking += [signal.SIGTERM] if before[signal.SIGTERM] is interrupt else []
    for number in asking:
        signal.signal(number, ask)
    try:
        yield leave
    finally:
        for number in asking:
            signal.signal(number, before[number])
