from __future__ import annotations

from typing import Any

import pytest

from mtkd_dist.pools.evidence import MAX_FAILURES, MAX_LOSSES
from mtkd_dist.pools.lease import Key, Lease
from mtkd_dist.pools.link_state import LinkState, StaleAttempt, WrongPlan
from mtkd_dist.pools.patience import FIRST, NEEDED, Patience

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
    assert state.lease(0) is None
    assert state.acknowledge(1, 1, 0) == [(0, 0), (0, 1)]
    assert [lease.key for lease in leases(state)] == [(2, 0), (2, 1)]


def test_credits_in_bytes_hold_the_teachers_back() -> None:
    state = started(max_bytes=300, leases_per_worker=10)
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1), (1, 0)]


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
    assert not state.answered(lost[0], 100, now=0)


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


def test_answers_that_cannot_be_read_are_made_again_with_all_others_of_the_same_worker() -> None:
    state = started("ab")
    for lease in leases(state):
        state.answered(lease, 100, now=0)  # a, b, a, b
    assert state.lose_answers(1, [(0, 1)]) == [(0, 1), (1, 1)]
    assert [lease.key for lease in leases(state)] == [(0, 1), (1, 1)]
    assert state.bytes_in_flight == 400


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


def test_students_and_teachers_of_another_plan_are_refused_with_both_digests() -> None:
    state = make_state(plan="aaaa")
    with pytest.raises(WrongPlan, match=r"student rank 3 works by the plan bbbb, and this link by aaaa"):
        state.attach(1, 3, 4, 0, "bbbb")
    with pytest.raises(WrongPlan, match=r"teacher worker w works by the plan bbbb"):
        state.add_worker("w", "bbbb", now=0)
    assert state.workers == []


def test_a_link_that_takes_the_place_of_another_begins_at_the_smallest_step_of_all_ranks() -> None:
    state = make_state()
    state.add_worker("a", PLAN, now=0)
    assert state.acknowledge(7, 0, 3) == []  # on its way when the link before died
    state.attach(7, 0, 2, 4, PLAN)
    state.attach(7, 1, 2, 2, PLAN)
    assert state.base == 2
    assert one_lease(state).key == (2, 0)


def test_a_link_has_only_its_own_slots_of_each_step() -> None:
    state = started(slots=range(2, 4), leases_per_worker=10)
    assert [lease.key for lease in leases(state)] == [(0, 2), (0, 3), (1, 2), (1, 3)]


def test_only_the_key_that_a_dead_worker_was_at_is_suspected() -> None:
    state = started()
    for worker in "abc":
        state.add_worker(worker, PLAN, now=0)
        assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1)]
        state.lose_worker(worker)
    assert state.deadly_key == (0, 0)
    state.skip((0, 0))
    assert state.deadly_key is None


@pytest.mark.parametrize("deadly", [(0, 0), (0, 1)])
def test_of_two_keys_that_a_worker_is_at_the_deadly_one_is_found_and_the_other_answered(deadly: Key) -> None:
    state = started(concurrency=2, window_steps=1)
    deaths = 0
    while len(state.ready) + len(state.skipped) < 2:
        state.add_worker("a", PLAN, now=0)
        held = leases(state)
        if deadly in [lease.key for lease in held]:
            state.lose_worker("a")
            deaths += 1
        else:
            for lease in held:
                assert state.answered(lease, 100, now=0)
        if state.deadly_key is not None:
            state.skip(state.deadly_key)
    assert state.skipped == {deadly}
    assert deaths == 1 + MAX_LOSSES  # the first one with both in hand says nothing of either


def test_a_worker_that_holds_a_suspect_gets_nothing_else_until_it_has_answered() -> None:
    state = started(concurrency=2)
    leases(state)
    state.lose_worker("a")
    state.add_worker("b", PLAN, now=0)
    (alone,) = leases(state)
    assert alone.key == (0, 0)
    state.answered(alone, 100, now=1)
    (alone,) = leases(state)
    assert alone.key == (0, 1)
    state.answered(alone, 100, now=1)
    assert [lease.key for lease in leases(state)] == [(1, 0), (1, 1)]


def test_a_skipped_key_is_done_without_an_answer_also_for_students_that_go_back() -> None:
    state = started()
    late = one_lease(state)
    state.skip(late.key)
    assert not state.answered(late, 100, now=1)
    assert one_lease(state).key == (0, 1)
    state.attach(2, 0, 1, 0, PLAN)
    assert (0, 0) not in [lease.key for lease in leases(state)]


def test_a_failed_key_goes_to_a_worker_that_has_not_failed_at_it() -> None:
    state = started("ab", leases_per_worker=1)
    first = one_lease(state)
    other = one_lease(state)
    state.failed(first, now=1)
    state.answered(other, 100, now=1)
    again = one_lease(state)
    assert (again.key, again.worker) == (first.key, other.worker)


def test_three_failures_are_the_fault_of_the_key() -> None:
    state = started(leases_per_worker=1)
    for failures in range(MAX_FAILURES):
        assert (state.deadly_key is None) == (failures < MAX_FAILURES)
        state.failed(one_lease(state), now=1)
    assert state.deadly_key == (0, 0)
    assert not state.died_of((0, 0))


def test_three_failures_in_a_row_ask_for_a_restart_of_the_worker_and_a_good_answer_between_them_does_not() -> None:
    state = started(leases_per_worker=1, window_steps=6)
    assert not state.failed(one_lease(state), now=1)
    assert not state.failed(one_lease(state), now=2)
    state.answered(one_lease(state), 100, now=3)
    assert not state.failed(one_lease(state), now=4)
    assert not state.failed(one_lease(state), now=5)
    assert state.failed(one_lease(state), now=6)


def test_a_slow_key_is_given_to_another_worker_too_and_the_first_answer_wins() -> None:
    state = started(slots=range(1), window_steps=1, patience=used_to(1.0))
    slow = one_lease(state)
    state.add_worker("b", PLAN, now=0)
    state.tick(1.9)
    assert state.lease(1.9) is None
    state.tick(2.1)
    hedge = one_lease(state, 2.1)
    assert (hedge.key, hedge.worker, state.hedged) == (slow.key, "b", 1)
    state.tick(4.9)
    assert state.lease(4.9) is None  # one hedge for a key at a time
    assert state.answered(hedge, 100, now=4.9)
    assert not state.answered(slow, 100, now=5.0)
    assert (state.bytes_in_flight, state.calls) == (100, 0)


def test_a_slow_key_goes_to_another_worker_before_later_keys_do() -> None:
    state = started(slots=range(1), window_steps=3, leases_per_worker=1, patience=used_to(1.0))
    first = one_lease(state)
    state.answered(first, 100, now=0)
    slow = one_lease(state)  # of the second step: students do not wait for it yet
    state.add_worker("b", PLAN, now=2)
    busy = one_lease(state, 2.0)
    assert (slow.key, busy.key, busy.worker) == ((1, 0), (2, 0), "b")
    state.tick(2.1)
    assert state.lease(2.1) is None
    state.acknowledge(1, 0, 0)  # so that there is a later key, too
    state.answered(busy, 100, now=2.2)
    assert one_lease(state, 2.2).key == slow.key
    assert state.hedged == 1


def test_a_hedge_needs_credit_for_the_bytes_of_a_second_answer() -> None:
    state = started(slots=range(1), window_steps=1, max_bytes=150, patience=used_to(1.0))
    leases(state)
    state.add_worker("b", PLAN, now=0)
    state.tick(3)
    assert state.lease(3) is None


def test_a_late_worker_loses_its_leases_and_gets_new_ones_when_it_has_answered() -> None:
    state = started("a", window_steps=1, patience=used_to(1.0))
    first, second = leases(state)
    state.add_worker("b", PLAN, now=0)
    assert state.tick(5.1) == []
    assert state.late_workers == ["a"]
    assert [(lease.key, lease.worker) for lease in leases(state, 5.1)] == [((0, 0), "b"), ((0, 1), "b")]
    assert state.released == 2
    assert state.answered(first, 100, now=6)  # still wanted: b has not answered yet
    assert state.late_workers == []
    assert state.holds(second)


def test_without_another_worker_the_late_one_is_waited_for_until_it_hangs() -> None:
    state = started(patience=used_to(1.0))
    lease = one_lease(state)
    assert state.answered(lease, 100, now=1)
    leases(state, 1)
    assert state.tick(HANG_SECONDS) == []
    assert state.late_workers == []
    assert state.tick(HANG_SECONDS + 2) == ["a"]


def test_the_second_lease_of_a_worker_is_not_late_while_it_works_at_the_first() -> None:
    state = started("ab", window_steps=6, patience=used_to(1.0))
    of_a, of_b, *_ = leases(state)
    state.answered(of_a, 100, now=4)
    state.answered(of_b, 100, now=5)
    state.tick(8.9)
    assert state.late_workers == []
    state.tick(9.1)
    assert state.late_workers == ["a"]


def test_the_first_answer_of_a_worker_may_take_longer_and_says_nothing_of_what_is_usual() -> None:
    patience = Patience(HANG_SECONDS)
    state = started(leases_per_worker=1, steps=100, window_steps=100, patience=patience)
    first = one_lease(state)
    assert state.tick(HANG_SECONDS + 1) == []
    assert state.tick(FIRST * HANG_SECONDS + 1) == ["a"]
    state.answered(first, 100, now=50)
    for i in range(NEEDED):
        assert patience.p99 is None
        state.answered(one_lease(state, 50 + i), 100, now=51 + i)
    assert patience.p99 == pytest.approx(1)


def test_teachers_owe_the_oldest_step_and_what_window_and_credits_allow() -> None:
    state = started(max_bytes=250)
    assert state.is_owed((0, 1))
    assert state.is_owed((1, 0))
    assert not state.is_owed((2, 0))
    for lease in leases(state):
        state.answered(lease, 100, now=0)
    assert not state.is_owed((1, 0))
    state.acknowledge(1, 0, 0)
    assert state.is_owed((1, 0))


def test_waiting_behind_other_links_at_a_shared_worker_is_no_silence_of_it() -> None:
    state = started(shared=True, slots=range(1), window_steps=1)
    lease = one_lease(state)
    begun = 1000 * HANG_SECONDS
    assert state.tick(begun) == []
    assert state.late_workers == []
    state.began(lease.number, begun)
    assert state.tick(begun + FIRST * HANG_SECONDS) == []
    assert state.tick(begun + FIRST * HANG_SECONDS + 1) == ["a"]


def test_how_long_a_shared_worker_takes_is_measured_from_the_beginning_of_its_work() -> None:
    state = started(shared=True, slots=range(1), window_steps=1)
    for turn in range(NEEDED + 1):
        asked = 100.0 * turn
        lease = one_lease(state, asked)
        state.began(lease.number, asked + 60)
        assert state.answered(lease, 100, asked + 61)
        state.lose_answers(1, [lease.key])
    assert state.patience.p99 == 1


@pytest.mark.parametrize("begun", [True, False])
def test_a_death_of_a_shared_worker_is_the_fault_of_what_it_had_begun_only(begun: bool) -> None:
    state = started("", shared=True)
    for worker in "abc":
        assert state.deadly_key is None
        state.add_worker(worker, PLAN, now=0)
        first, _ = leases(state)
        if begun:
            state.began(first.number, now=1)
        state.lose_worker(worker)
    assert state.deadly_key == ((0, 0) if begun else None)


def test_what_a_shared_worker_died_of_perhaps_beside_others_is_blamed_once_it_was_asked_alone() -> None:
    state = started("", shared=True, concurrency=2)
    asked_alone = []
    while state.deadly_key is None:
        state.add_worker("a", PLAN, now=0)
        first = leases(state)[0]
        asked_alone.append(first.alone)
        state.began(first.number, now=1)
        state.lose_worker("a")
    assert state.deadly_key == (0, 0)
    assert asked_alone == [False] + [True] * MAX_LOSSES
