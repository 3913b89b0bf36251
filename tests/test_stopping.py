"""Ctrl-C once: all ranks stop after the same step, and save. No Ray."""

from __future__ import annotations

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.pools.cluster import sigterm_as_interrupt
from mtkd_dist.pools.interrupts import Leave, leaving
from mtkd_dist.train.stopping import EXCHANGE_SECONDS, Saved, Stopping


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


# When ranks stop


class Exchange:
    """Stands for the all-reduce of so many ranks: each waits for all others, and a rank that stays away is an error."""

    def __init__(self, ranks: int) -> None:
        self._barrier = threading.Barrier(ranks, timeout=20)
        self._numbers: list[Sequence[int]] = [[]] * ranks

    def of(self, rank: int) -> Callable[[Sequence[int]], list[int]]:
        def least(numbers: Sequence[int]) -> list[int]:
            self._numbers[rank] = numbers
            self._barrier.wait()
            found = [min(values) for values in zip(*self._numbers, strict=True)]
            self._barrier.wait()
            return found

        return least


def stops_of(paces: list[float], asked_at: list[int | None], steps: int, start: int = 0) -> list[int]:
    """Steps that each rank has done when it stops. `paces`: its seconds for a step, by its own clock; `asked_at`: after
    so many steps it has been asked, or None for never."""
    exchange, ended = Exchange(len(paces)), [steps] * len(paces)

    def train(rank: int) -> None:
        clock, done = Now(), start
        asked = asked_at[rank]
        stopping = Stopping(start, lambda: asked is not None and done >= asked, exchange.of(rank), clock)
        while done < steps:
            clock.seconds += paces[rank]
            done += 1
            if stopping(done):
                ended[rank] = done
                return

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(len(paces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a rank waits for one that stopped elsewhere"
    return ended


@given(
    paces=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=3),
    asked_at=st.lists(st.none() | st.integers(0, 40), min_size=3, max_size=3),
    start=st.integers(0, 5),
)
def test_all_ranks_stop_after_the_same_step_whoever_was_asked_and_when(
    paces: list[float], asked_at: list[int | None], start: int
) -> None:
    ended = stops_of(paces, asked_at[: len(paces)], 40, start)
    assert len(set(ended)) == 1
    first = min((max(at, start + 1) for at in asked_at[: len(paces)] if at is not None), default=None)
    assert ended[0] == 40 if first is None else ended[0] >= min(first, 40)


@pytest.mark.parametrize(("pace", "asked", "ended"), [(10.0, 7, 7), (EXCHANGE_SECONDS, 7, 7)])
def test_a_slow_training_stops_after_the_very_step(pace: float, asked: int, ended: int) -> None:
    assert stops_of([pace, pace], [asked, None], 40) == [ended, ended]


def test_a_fast_training_stops_within_twice_the_time_between_exchanges() -> None:
    pace = 0.01
    (ended,) = stops_of([pace], [500], 10_000)
    assert 500 <= ended <= 500 + 2 * EXCHANGE_SECONDS / pace


def test_most_steps_of_a_fast_training_do_without_an_exchange() -> None:
    clock, exchanges = Now(), itertools.count()

    def least(numbers: Sequence[int]) -> Sequence[int]:
        next(exchanges)
        return numbers

    stopping = Stopping(0, lambda: False, least, clock)
    for done in range(1, 10_001):
        clock.seconds += 0.01
        assert not stopping(done)
    assert next(exchanges) <= 1.2 * 10_000 * 0.01 / EXCHANGE_SECONDS


def test_saved_says_how_far_and_travels() -> None:
    saved = pickle.loads(pickle.dumps(Saved(123, 400)))
    assert (saved.step, saved.steps, str(saved)) == (123, 400, "saved after step 123 of 400")


# Ctrl-C


def test_the_first_time_asks_and_the_second_is_at_once() -> None:
    leave = Leave()
    assert not leave.asked
    assert not leave.ask()
    assert leave.asked
    assert leave.ask()


def test_who_was_asked_for_too_long_is_interrupted() -> None:
    now = Now()
    leave = Leave(60, now)
    now.seconds = 1000
    leave.check()
    leave.ask()
    now.seconds += 60
    leave.check()
    now.seconds += 1
    assert leave.overdue
    with pytest.raises(KeyboardInterrupt, match="within 60 s"):
        leave.check()


def test_signals_ask_once_and_are_then_what_they_were() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with sigterm_as_interrupt():
        for first, second in itertools.product((signal.SIGINT, signal.SIGTERM), repeat=2):
            with leaving() as leave:
                signal.raise_signal(first)
                assert leave.asked
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(second)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(first)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_signal_that_would_end_the_process_still_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with leaving():
        assert signal.getsignal(signal.SIGTERM) == before


def test_where_ctrl_c_is_ignored_it_stays_so_and_sigterm_asks() -> None:
    script = """
import signal
from mtkd_dist.pools.cluster import sigterm_as_interrupt
from mtkd_dist.pools.interrupts import leaving
signal.signal(signal.SIGINT, signal.SIG_IGN)
with sigterm_as_interrupt(), leaving() as leave:
    signal.raise_signal(signal.SIGINT)
    assert not leave.asked
    signal.raise_signal(signal.SIGTERM)
    assert leave.asked
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        print("at once")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "at once\n"


def test_beside_the_main_thread_nobody_asks() -> None:
    asked: list[bool] = []

    def work() -> None:
        with leaving() as leave:
            asked.append(leave.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]
