from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.pools.shards import merged, slots_of_shard, split_slots


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
