"""Anything may happen to a link, in any order: what holds after each event, and that it comes to an end from there."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mtkd_dist.pools.evidence import MAX_LOSSES
from mtkd_dist.pools.lease import Key, Lease
from mtkd_dist.pools.link_state import LinkState
from mtkd_dist.pools.patience import Patience

PLAN = "digest"
STEPS, SLOTS, BYTES = 5, 3, 100
HANG_SECONDS = 20.0


class LinkMachine(RuleBasedStateMachine):
    """Time passes; workers join, answer, fail, hang and die; ranks take, go back and restart; the link itself dies."""

    @initialize(
        ranks=st.integers(1, 3),
        window=st.integers(1, 3),
        max_bytes=st.integers(1, 900),
        knows=st.booleans(),
        concurrency=st.integers(1, 2),
        shared=st.booleans(),
    )
    def start(self, ranks: int, window: int, max_bytes: int, knows: bool, concurrency: int, shared: bool) -> None:
        self.concurrency, self.shared = concurrency, shared
        self.ranks, self.window, self.max_bytes, self.knows = ranks, window, max_bytes, knows
        self.now = 0.0
        self.attempt = 0
        self.born = 0
        self.new_state()
        self.restart(0)

    def new_state(self) -> None:
        patience = Patience(HANG_SECONDS)
        for _ in range(30 if self.knows else 0):
            patience.took(1.0)
        self.state = LinkState(
            plan=PLAN,
            steps=STEPS,
            slots=range(SLOTS),
            window_steps=self.window,
            max_bytes=self.max_bytes,
            patience=patience,
            concurrency=self.concurrency,
            shared=self.shared,
        )
        # What the machine knows by itself: leases that were given, and answers that are with the link.
        self.out: list[Lease] = []
        self.begun: set[Lease] = set()
        self.kept: set[Key] = set()
        self.deaths: Counter[Key] = Counter()
        self.suspects: set[Key] = set()

    @rule(step=st.integers(0, STEPS - 1))
    def restart(self, step: int) -> None:
        """A new student group, from a checkpoint at `step`."""
        step = min(step, self.state.base)
        self.attempt += 1
        self.next = dict.fromkeys(range(self.ranks), step)
        for rank in range(self.ranks):
            self.kept -= set(self.state.attach(self.attempt, rank, self.ranks, step, PLAN))

    @rule(data=st.data())
    def kill_link(self, data: st.DataObject) -> None:
        """Another one takes its place; ranks find it in any order, at the steps that they need next."""
        workers = self.state.workers
        self.new_state()
        for worker in workers:
            self.state.add_worker(worker, PLAN, self.now)
        for rank in data.draw(st.permutations(range(self.ranks))):
            self.state.attach(self.attempt, rank, self.ranks, self.next[rank], PLAN)

    @rule()
    def add_worker(self) -> None:
        self.born += 1
        self.state.add_worker(f"w{self.born}", PLAN, self.now)

    @precondition(lambda self: self.state.workers)
    @rule(data=st.data(), blame=st.booleans())
    def kill_worker(self, data: st.DataObject, blame: bool) -> None:
        self.lose(data.draw(st.sampled_from(self.state.workers)), blame)
        self.quarantine()

    def held(self, worker: str) -> list[Key]:
        return [lease.key for lease in self.out if lease.worker == worker and self.state.holds(lease)]

    def lose(self, worker: str, blame: bool = True) -> None:
        held = [lease for lease in self.out if lease.worker == worker and self.state.holds(lease)]
        in_hand = [lease for lease in held if lease in self.begun or not self.shared][: self.concurrency]
        if blame and any(self.wanted(lease.key) for lease in in_hand):
            self.suspects.update(lease.key for lease in in_hand)
            # What a shared worker was at for others, nobody knows.
            if len(in_hand) == 1 and (not self.shared or self.concurrency == 1 or in_hand[0].alone):
                self.deaths[in_hand[0].key] += 1
        self.state.lose_worker(worker, blame)

    def wanted(self, key: Key) -> bool:
        return key[0] >= self.state.base and key not in self.kept | self.state.skipped

    def acquit(self, key: Key) -> None:
        self.suspects.discard(key)
        self.deaths.pop(key, None)

    @rule(seconds=st.floats(0.1, 30))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        late_before = set(self.state.late_workers)
        for worker in self.state.tick(self.now):
            assert self.held(worker)
            self.lose(worker)
        self.quarantine()
        if set(self.state.late_workers) - late_before:
            assert len(self.state.late_workers) < len(self.state.workers) or not self.state.workers

    @rule()
    def lease(self) -> None:
        before = self.state.bytes_in_flight
        lease = self.state.lease(self.now)
        if lease is not None:
            assert lease.key not in self.kept
            assert lease.key not in self.state.skipped
            assert lease.worker not in self.state.late_workers
            assert self.state.base <= lease.key[0] < self.state.base + self.window
            assert lease.key[0] == self.state.base or before + BYTES <= self.max_bytes
            if self.concurrency > 1 and (held := self.held(lease.worker)):
                assert not self.suspects & {lease.key, *held}
            self.out.append(lease)

    @precondition(lambda self: self.shared and self.out)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Perhaps one that is lost or answered already: the word of it comes too late then."""
        lease = data.draw(st.sampled_from(self.out))
        self.begun.add(lease)
        self.state.began(lease.number, self.now)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.answered(data.draw(st.sampled_from(self.out)))

    def answered(self, lease: Lease) -> None:
        self.out.remove(lease)
        wanted = self.wanted(lease.key)
        taken = self.state.answered(lease, BYTES, self.now) if self.state.holds(lease) else False
        assert not taken or wanted
        if taken:
            self.kept.add(lease.key)
            self.acquit(lease.key)
        assert not self.state.answered(lease, BYTES, self.now)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.out))
        self.out.remove(lease)
        if self.state.failed(lease, self.now):
            self.lose(lease.worker, blame=False)
        self.quarantine()

    def quarantine(self) -> None:
        while (key := self.state.deadly_key) is not None:
            assert key not in self.kept
            assert not self.state.died_of(key) or self.deaths[key] >= MAX_LOSSES
            self.state.skip(key)
            self.acquit(key)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def lose_an_answer(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.kept)))
        lost = self.state.lose_answers(self.attempt, [key])
        assert key in lost
        self.kept -= set(lost)

    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        self.take(data.draw(st.integers(0, self.ranks - 1)))

    def take(self, rank: int) -> None:
        step = self.next[rank]
        keys = {(step, slot) for slot in range(SLOTS)}
        if step < STEPS and keys <= self.kept | self.state.skipped:
            self.kept -= set(self.state.acknowledge(self.attempt, rank, step))
            self.next[rank] = step + 1

    @invariant()
    def answers_are_counted_once_and_only_while_a_student_needs_them(self) -> None:
        if hasattr(self, "state"):
            assert self.state.ready.keys() == self.kept
            assert not self.kept & (self.state.leased.keys() | self.state.skipped)
            assert self.state.base == min(self.next.values())
            assert all(key[0] >= self.state.base for key in self.kept)

    @invariant()
    def leases_are_with_living_workers_and_at_most_two_for_a_key(self) -> None:
        if hasattr(self, "state"):
            for key, leases in self.state.leased.items():
                assert 1 <= len(leases) <= 2
                assert len({lease.worker for lease in leases}) == len(leases)
                assert all(lease.key == key and self.state.holds(lease) for lease in leases)
            calls = Counter(lease.worker for lease in self.out if self.state.holds(lease))
            assert calls.total() == self.state.calls
            assert all(count <= self.state.leases_per_worker for count in calls.values())
            known = self.state.slot_bytes or 0
            assert self.state.bytes_in_flight == BYTES * len(self.kept) + known * self.state.calls

    def ended_by_themselves(self) -> set[str]:
        """Shared workers that never begin hang over something of another link, and look after that themselves."""
        waiting = {lease.worker for lease in self.out if self.shared and lease not in self.begun}
        return waiting.intersection(self.state.workers) - {"healthy"}

    def teardown(self) -> None:
        """From any state on, one healthy worker is enough to bring every rank to the end, whatever the others do."""
        if not hasattr(self, "state"):
            return
        self.state.add_worker("healthy", PLAN, self.now)
        for _ in range(200):
            self.now += 10.0
            for worker in {*self.state.tick(self.now), *self.ended_by_themselves()}:
                self.lose(worker)
            self.quarantine()
            while (lease := self.state.lease(self.now)) is not None:
                self.out.append(lease)
            for lease in [lease for lease in self.out if lease.worker == "healthy"]:
                self.answered(lease)
            for rank in self.next:
                self.take(rank)
        assert set(self.next.values()) == {STEPS}


TestLinkMachine = LinkMachine.TestCase
TestLinkMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
