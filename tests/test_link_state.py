from __future__ import annotations

from typing import Any

import pytest

from mtkd_dist.pools.link_state import MAX_FAILURES, Lease, LinkState, StaleAttempt, WrongPlan
from mtkd_dist.pools.patience import NEEDED, Patience


PLAN = "the digest of the plan"
HANG_SECONDS = 60.0


def make_state(**changes: Any) -> LinkState:
    settings_: dict[str, Any] = {
        "plan": PLAN,
        "steps": 6,
        "slots": range(2),
        "window_steps": 2,
        "max_bytes": 10_000,
        "patience": Patience(HANG_SECONDS),
    } | changes
    return LinkState(**settings_)


def started(workers: str = "a", **changes: Any) -> LinkState:
    """Some workers, one rank at step 0; that an answer has 100 bytes is known."""
    state = make_state(**changes)
    state.slot_bytes = 100
    for worker in workers:
        state.add_worker(worker, PLAN, now=0)
    state.attach(1, 0, 1, 0, PLAN)
    return state


def used_to(seconds: float) -> Patience:
    """Patience that has seen answers which took so long."""
    patience = Patience(HANG_SECONDS)
    for _ in range(NEEDED):
        patience.took(seconds)
    return patience


def leases(state: LinkState, now: float = 0) -> list[Lease]:
    found = []
    while (lease := state.lease(now)) is not None:
        found.append(lease)
    return found


def one_lease(state: LinkState, now: float = 0) -> Lease:
    lease = state.lease(now)
    assert lease is not None
    return lease


def test_nothing_is_leased_before_a_student_has_attached() -> None:
    state = make_state()
    state.add_worker("a", PLAN, now=0)
    assert state.lease(0) is None


def test_keys_are_leased_in_the_order_of_the_plan() -> None:
    state = started(leases_per_worker=10)
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_the_window_moves_when_every_rank_has_acknowledged() -> None:
    state = make_state(leases_per_worker=10)
    state.slot_bytes = 100
    state.add_worker("a", PLAN, now=0)
    for rank in (0, 1):
        state.attach(1, rank, 2, 0, PLAN)
    for lease in leases(state):
        state.answered(lease, 100, now=0)
    assert state.acknowledge(1, 0, 0) == []
    assert state.held_back
    assert state.acknowledge(1, 1, 0) == [(0, 0), (0, 1)]
    assert [lease.key for lease in leases(state)] == [(2, 0), (2, 1)]


def test_credits_in_bytes_hold_the_teachers_back() -> None:
    state = started(max_bytes=300, leases_per_worker=10)
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1), (1, 0)]
    assert state.held_back


def test_the_oldest_step_is_leased_even_without_credits_so_that_students_cannot_wait_for_ever() -> None:
    state = started(max_bytes=1, leases_per_worker=10)
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1)]


def test_only_the_oldest_step_is_leased_until_an_answer_has_shown_its_size() -> None:
    state = make_state(max_bytes=1_000, leases_per_worker=10)
    state.add_worker("a", PLAN, now=0)
    state.attach(1, 0, 1, 0, PLAN)
    first, second = leases(state)
    assert (first.key, second.key) == ((0, 0), (0, 1))
    state.answered(first, 400, now=0)
    assert state.slot_bytes == 400
    assert state.lease(0) is None  # 400 ready + 400 leased + 400 more > 1000
    state.answered(second, 300, now=0)
    assert state.slot_bytes == 400


def test_work_goes_to_the_worker_with_the_fewest_leases() -> None:
    state = started()
    state.add_worker("b", PLAN, now=0)
    assert [lease.worker for lease in leases(state)] == ["a", "b", "a", "b"]


def test_the_keys_of_a_dead_worker_are_leased_again_to_another() -> None:
    state = started()
    lost = leases(state)
    assert state.lose_worker("a") == [(0, 0), (0, 1)]
    state.add_worker("b", PLAN, now=0)
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1)]
    assert not state.answered(lost[0], 100)


def test_an_answer_that_comes_twice_is_taken_once() -> None:
    state = started()
    lease = state.lease(0)
    assert lease is not None
    assert state.answered(lease, 100, now=0)
    assert not state.answered(lease, 100, now=0)


def test_a_newer_attempt_starts_the_window_at_its_step_and_fences_the_older_one() -> None:
    state = started()
    for _ in range(2):
        for lease in leases(state):
            state.answered(lease, 100, now=0)
        state.acknowledge(1, 0, state.base)
    assert state.base == 2
    state.attach(2, 0, 1, 1, PLAN)
    assert state.base == 1
    with pytest.raises(StaleAttempt):
        state.acknowledge(1, 0, 2)
    assert (1, 0) in [lease.key for lease in leases(state)]


def test_a_newer_attempt_drops_answers_that_an_earlier_one_may_have_died_of() -> None:
    state = started()
    for lease in leases(state):
        state.answered(lease, 100, now=0)
    assert state.attach(2, 0, 1, 0, PLAN) == [(0, 0), (0, 1)]
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1)]


def test_answers_that_cannot_be_read_any_more_are_made_again() -> None:
    state = started()
    for lease in leases(state):
        state.answered(lease, 100, now=0)
    state.lose_answers(1, [(0, 1)])
    again = state.lease(0)
    assert again is not None
    assert again.key == (0, 1)


def test_acknowledgements_may_arrive_out_of_order() -> None:
    state = started()
    state.acknowledge(1, 0, 1)
    state.acknowledge(1, 0, 0)
    assert state.base == 2


def test_a_key_over_which_three_workers_died_is_named() -> None:
    state = make_state(leases_per_worker=1)
    state.attach(1, 0, 1, 0, PLAN)
    for worker in "abc":
        assert state.deadly_key is None
        state.add_worker(worker, PLAN, now=0)
        lease = state.lease(0)
        assert lease is not None
        assert lease.key == (0, 0)
        state.lose_worker(worker)
    assert state.deadly_key == (0, 0)


def test_an_answer_acquits_its_key() -> None:
    state = make_state(leases_per_worker=1)
    state.attach(1, 0, 1, 0, PLAN)
    for worker in "ab":
        state.add_worker(worker, PLAN, now=0)
        state.lease(0)
        state.lose_worker(worker)
    state.add_worker("c", PLAN, now=0)
    lease = state.lease(0)
    assert lease is not None
    state.answered(lease, 100, now=0)
    state.lose_answers(1, [lease.key])
    assert state.lease(0) is not None
    state.lose_worker("c")
    assert state.deadly_key is None


