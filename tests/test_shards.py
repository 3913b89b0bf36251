from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.pools.shards import LinkTotals, all_served, merged, slots_of_shard, split_slots


@given(slots=st.integers(1, 64), data=st.data())
def test_every_slot_has_one_link_and_every_link_has_slots(slots: int, data: st.DataObject) -> None:
    shards = data.draw(st.integers(1, slots))
    runs = [slots_of_shard(slots, shard, shards) for shard in range(shards)]
    assert [slot for run in runs for slot in run] == list(range(slots))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1
    assert min(map(len, runs)) >= 1


def test_a_rank_asks_each_link_for_what_it_has() -> None:
    assert split_slots([2, 3, 4], slots_per_step=8, shards=2) == [[2, 3], [4]]


def test_counts_are_added_and_shares_are_the_mean_over_workers() -> None:
    one = {"shares": PoolShares(1.0, 0.0, 0.0), "workers": 3, "ready": 2}
    other = {"shares": PoolShares(0.0, 1.0, 0.0), "workers": 1, "ready": 5}
    both = merged([one, other])
    assert (both["workers"], both["ready"]) == (4, 7)
    assert (both["shares"].working, both["shares"].starved) == pytest.approx((0.75, 0.25))


def test_a_run_begins_when_every_link_has_a_worker() -> None:
    assert all_served([0], shards=1)
    assert not all_served([], shards=1)
    assert not all_served([0, 2, 4], shards=2)
    assert all_served([4, 1], shards=2)


def counted(lost: int, ready: int = 0) -> dict[str, Any]:
    shares = PoolShares(1.0, 0.0, 0.0)
    return {"shares": shares, "workers": 1, "ready": ready, "quarantined": 0, "lost_workers": lost} | {
        "hedged": 2 * lost,
        "released": 0,
    }


def test_what_a_dead_link_counted_is_not_forgotten() -> None:
    totals = LinkTotals()
    totals.died(0)  # before it was ever seen
    assert totals.seen([counted(1), counted(4, ready=5)])["lost_workers"] == 5
    totals.died(1)
    totals.died(1)  # its successor too, before it was seen
    now = totals.seen([counted(2), counted(1, ready=1)])
    assert (now["lost_workers"], now["hedged"], now["ready"]) == (7, 14, 1)


def test_one_link_that_died_is_not_forgotten_either() -> None:
    totals = LinkTotals()
    totals.seen([counted(3)])
    totals.died(0)
    assert totals.seen([counted(0)])["lost_workers"] == 3
