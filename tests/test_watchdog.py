from __future__ import annotations

import faulthandler
import subprocess
import sys

import pytest

from mtkd_dist.pools.watchdog import LEAST_SECONDS, Watchdog

HANGS = """
import ctypes
from mtkd_dist.pools.watchdog import Watchdog

def over_a_call_that_keeps_the_lock():
    with Watchdog().over(0.2):
        ctypes.PyDLL(None).sleep(600)

over_a_call_that_keeps_the_lock()
"""
GOES_ON = """
import time
from mtkd_dist.pools.watchdog import Watchdog

with Watchdog().over(0.2):
    pass
time.sleep(0.5)
"""


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """What the timer was set to, one after the other; None: stopped."""
    found: list[float | None] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda seconds, **_: found.append(seconds))
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: found.append(None))
    return found


def test_a_process_that_hangs_in_foreign_code_ends_and_says_where() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "over_a_call_that_keeps_the_lock" in ended.stderr


def test_a_process_that_is_done_in_time_goes_on() -> None:
    assert subprocess.run([sys.executable, "-c", GOES_ON], timeout=60, check=False).returncode == 0


def test_of_several_the_one_that_must_be_done_first_counts(timer: list[float | None]) -> None:
    now = [100.0]
    watchdog = Watchdog(lambda: now[0])
    with watchdog.over(60):
        now[0] += 10
        with watchdog.over(5):
            now[0] += 1
            with watchdog.over(600):
                pass
        now[0] += 4
    assert timer == [60, 5, 4, 4, 49, None]


def test_what_ends_at_the_last_moment_leaves_a_timer_for_the_others_that_can_be_set(timer: list[float | None]) -> None:
    now = [0.0]
    watchdog = Watchdog(lambda: now[0])
    with watchdog.over(5), watchdog.over(5):
        now[0] += 6
    assert timer == [5, 5, LEAST_SECONDS, None]


def test_what_fails_is_watched_no_more(timer: list[float | None]) -> None:
    with pytest.raises(ValueError, match="dark"), Watchdog().over(5):
        raise ValueError("dark")
    assert timer[-1] is None
