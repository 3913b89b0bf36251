from __future__ import annotations

import math

import pytest

from mtkd_dist.pools.patience import KEPT, LATE, LATE_SECONDS, NEEDED, SLOW, SLOW_SECONDS, Patience


def patience_of(seconds: list[float]) -> Patience:
    patience = Patience(hang_seconds=60)
    for duration in seconds:
        patience.took(duration)
    return patience


def test_nothing_is_slow_or_late_before_enough_answers_are_known() -> None:
    patience = patience_of([1.0] * (NEEDED - 1))
    assert (patience.slow_seconds, patience.late_seconds) == (math.inf, math.inf)


def test_slow_and_late_are_multiples_of_the_slowest_answers() -> None:
    patience = patience_of([0.5] * 98 + [3.0] * 2)
    assert patience.p99 == 3.0
    assert (patience.slow_seconds, patience.late_seconds) == pytest.approx((SLOW * 3, LATE * 3))


def test_among_very_short_answers_a_hiccup_is_not_late() -> None:
    patience = patience_of([0.001] * NEEDED)
    assert (patience.slow_seconds, patience.late_seconds) == (SLOW_SECONDS, LATE_SECONDS)


def test_old_answers_are_forgotten() -> None:
    patience = patience_of([100.0] * 10 + [1.0] * KEPT)
    assert patience.p99 == 1.0
