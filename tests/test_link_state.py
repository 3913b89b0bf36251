from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mtkd_dist.pools.link_state import Lease, LinkState, StaleAttempt


def make_state(**changes: int) -> LinkState:
    settings_ = {
        "steps": 6,
        "slots_per_step": 2,
        "window_steps": 2,
        "max_bytes": 10_000,
    } | changes
    return LinkState(**settings_)


def started(**changes: int) -> LinkState:
    """One worker, one rank at step 0; that an answer has 100 bytes is known."""
    state = make_state(**changes)
    state.slot_bytes = 100
    state.add_worker("a")
    state.attach(attempt=1, rank=0, world_size=1, step=0)
    return state


def leases(state: LinkState) -> list[Lease]:
    found = []
    while (lease := state.lease()) is not None:
        found.append(lease)
    return found


def test_nothing_is_leased_before_a_student_has_attached() -> None:
    state = make_state()
    state.add_worker("a")
    assert state.lease() is None


def test_keys_are_leased_in_the_order_of_the_plan() -> None:
    state = started(leases_per_worker=10)
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_the_window_moves_when_every_rank_has_acknowledged() -> None:
    state = make_state(leases_per_worker=10)
    state.slot_bytes = 100
    state.add_worker("a")
    for rank in (0, 1):
        state.attach(1, rank, 2, 0)
    for lease in leases(state):
        state.answered(lease, 100)
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
    state.add_worker("a")
    state.attach(1, 0, 1, 0)
    first, second = leases(state)
    assert (first.key, second.key) == ((0, 0), (0, 1))
    state.answered(first, 400)
    assert state.slot_bytes == 400
    assert state.lease() is None  # 400 ready + 400 leased + 400 more > 1000
    state.answered(second, 300)
    assert state.slot_bytes == 400


def test_work_goes_to_the_worker_with_the_fewest_leases() -> None:
    state = started()
    state.add_worker("b")
    assert [lease.worker for lease in leases(state)] == ["a", "b", "a", "b"]


def test_the_keys_of_a_dead_worker_are_leased_again_to_another() -> None:
    state = started()
    lost = leases(state)
    assert state.lose_worker("a") == [(0, 0), (0, 1)]
    state.add_worker("b")
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1)]
    assert not state.answered(lost[0], 100)


def test_an_answer_that_comes_twice_is_taken_once() -> None:
    state = started()
    lease = state.lease()
    assert lease is not None
    assert state.answered(lease, 100)
    assert not state.answered(lease, 100)


def test_a_newer_attempt_starts_the_window_at_its_step_and_fences_the_older_one() -> None:
    state = started()
    for _ in range(2):
        for lease in leases(state):
            state.answered(lease, 100)
        state.acknowledge(1, 0, state.base)
    assert state.base == 2
    state.attach(attempt=2, rank=0, world_size=1, step=1)
    assert state.base == 1
    with pytest.raises(StaleAttempt):
        state.acknowledge(1, 0, 2)
    assert (1, 0) in [lease.key for lease in leases(state)]


def test_a_newer_attempt_drops_answers_that_an_earlier_one_may_have_died_of() -> None:
    state = started()
    for lease in leases(state):
        state.answered(lease, 100)
    assert state.attach(attempt=2, rank=0, world_size=1, step=0) == [(0, 0), (0, 1)]
    assert [lease.key for lease in leases(state)] == [(0, 0), (0, 1)]


def test_answers_that_cannot_be_read_any_more_are_made_again() -> None:
    state = started()
    for lease in leases(state):
        state.answered(lease, 100)
    state.lose_answers(1, [(0, 1)])
    again = state.lease()
    assert again is not None
    assert again.key == (0, 1)


def test_acknowledgements_may_arrive_out_of_order() -> None:
    state = started()
    state.acknowledge(1, 0, 1)
    state.acknowledge(1, 0, 0)
    assert state.base == 2


def test_a_key_over_which_three_workers_died_is_named() -> None:
    state = make_state(leases_per_worker=1)
    state.attach(1, 0, 1, 0)
    for worker in "abc":
        assert state.deadly_key is None
        state.add_worker(worker)
        lease = state.lease()
        assert lease is not None
        assert lease.key == (0, 0)
        state.lose_worker(worker)
    assert state.deadly_key == (0, 0)


def test_an_answer_acquits_its_key() -> None:
    state = make_state(leases_per_worker=1)
    state.attach(1, 0, 1, 0)
    for worker in "ab":
        state.add_worker(worker)
        state.lease()
        state.lose_worker(worker)
    state.add_worker("c")
    lease = state.lease()
    assert lease is not None
    state.answered(lease, 100)
    state.lose_answers(1, [lease.key])
    assert state.lease() is not None
    state.lose_worker("c")
    assert state.deadly_key is None


class LinkMachine(RuleBasedStateMachine):
    """Workers come, answer and die; ranks take and restart: every key reaches every rank, credits are respected."""

    @initialize(ranks=st.integers(1, 3), window=st.integers(1, 3), max_bytes=st.integers(1, 900))
    def start(self, ranks: int, window: int, max_bytes: int) -> None:
        self.ranks = ranks
        self.state = LinkState(steps=5, slots_per_step=3, window_steps=window, max_bytes=max_bytes)
        self.attempt = 0
        self.out: list[Lease] = []
        self.born = 0
        self.restart(0)

    @rule(step=st.integers(0, 4))
    def restart(self, step: int) -> None:
        step = min(step, self.state.base)
        self.attempt += 1
        self.next = dict.fromkeys(range(self.ranks), step)
        for rank in range(self.ranks):
            self.state.attach(self.attempt, rank, self.ranks, step)

    @rule()
    def add_worker(self) -> None:
        self.born += 1
        self.state.add_worker(f"w{self.born}")

    @precondition(lambda self: self.state.workers)
    @rule(data=st.data())
    def kill_worker(self, data: st.DataObject) -> None:
        self.state.lose_worker(data.draw(st.sampled_from(self.state.workers)))

    @rule()
    def lease(self) -> None:
        lease = self.state.lease()
        if lease is not None:
            assert lease.key not in self.state.ready
            assert lease.key[0] < self.state.base + self.state.window_steps
            assert lease.key[0] == self.state.base or self.state.bytes_in_flight <= self.state.max_bytes
            self.out.append(lease)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.out))
        self.out.remove(lease)
        held = self.state.holds(lease)
        assert self.state.answered(lease, 100) == (held and lease.key[0] >= self.state.base)

    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        rank = data.draw(st.integers(0, self.ranks - 1))
        step = self.next[rank]
        if step < 5 and all((step, slot) in self.state.ready for slot in range(3)):
            self.state.acknowledge(self.attempt, rank, step)
            self.next[rank] = step + 1

    @invariant()
    def no_key_is_both_ready_and_leased(self) -> None:
        if hasattr(self, "state"):
            assert not self.state.ready.keys() & self.state.leased.keys()

    @invariant()
    def the_window_starts_at_the_slowest_rank(self) -> None:
        if hasattr(self, "state"):
            assert self.state.base == min(self.next.values())
            assert all(key[0] >= self.state.base for key in self.state.ready)

    def teardown(self) -> None:
        """From any state on, one healthy worker is enough to bring every rank to the end."""
        if not hasattr(self, "state"):
            return
        self.state.add_worker("last")
        for _ in range(200):
            for lease in list(self.out):
                self.out.remove(lease)
                self.state.answered(lease, 100)
            while (lease := self.state.lease()) is not None:
                self.out.append(lease)
            for rank, step in self.next.items():
                if step < 5 and all((step, slot) in self.state.ready for slot in range(3)):
                    self.state.acknowledge(self.attempt, rank, step)
                    self.next[rank] = step + 1
        assert set(self.next.values()) == {5}


TestLinkMachine = LinkMachine.TestCase
TestLinkMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
