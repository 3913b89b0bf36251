from __future__ import annotations

import pytest

from mtkd_dist.pools.clock import PoolClock, TeacherClock


def test_shares_are_fractions_of_the_time_that_was_booked() -> None:
    clock = PoolClock()
    clock.add(working=6, starved=3, held_back=1)
    shares = clock.shares()
    assert (shares.working, shares.starved, shares.held_back) == pytest.approx((0.6, 0.3, 0.1))


def test_no_time_gives_no_shares() -> None:
    shares = PoolClock().shares()
    assert (shares.working, shares.starved, shares.held_back) == (0, 0, 0)


def test_a_teacher_without_a_lease_is_held_back_and_one_that_waits_for_its_work_is_starved() -> None:
    clock = TeacherClock()
    clock.joined("a", now=0)
    clock.leased("a", now=4)
    clock.answered("a", now=10, busy_seconds=5)
    assert clock.pool.seconds == pytest.approx({"held_back": 4, "working": 5, "starved": 1})


def test_two_leases_at_a_time_do_not_count_a_second_twice() -> None:
    clock = TeacherClock()
    clock.joined("a", now=0)
    clock.leased("a", now=0)
    clock.leased("a", now=0)
    clock.answered("a", now=5, busy_seconds=5)
    clock.answered("a", now=10, busy_seconds=4)
    assert sum(clock.pool.seconds.values()) == pytest.approx(10)
    assert clock.pool.seconds["working"] == pytest.approx(9)


def test_a_late_answer_of_a_lost_worker_is_not_booked() -> None:
    clock = TeacherClock()
    clock.joined("a", now=0)
    clock.leased("a", now=0)
    clock.lost("a")
    clock.answered("a", now=5, busy_seconds=5)
    assert sum(clock.pool.seconds.values()) == 0
