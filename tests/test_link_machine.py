"""Anything may happen to a link, in any order: safety after each event, and that it comes to an end from any state."""

from __future__ import annotations

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
