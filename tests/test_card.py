"""The part of a card that belongs to a trial."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_tune.card import CONTEXT_BYTES, memory_fraction


@given(st.integers(1, 8), st.integers(8 << 30, 192 << 30))
def test_the_trials_of_a_card_fit_on_it_with_their_contexts(trials: int, card_bytes: int) -> None:
    fraction = memory_fraction(1 / trials, card_bytes)
    assert 0 < fraction < 1
    assert trials * (fraction * card_bytes + CONTEXT_BYTES) <= card_bytes * (1 + 1e-9)


def test_a_part_that_is_no_more_than_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"trial\.gpus: 0\.1 of a card with 4\.0 GiB is no more than the 0\.62 GiB"):
        memory_fraction(0.1, 4 << 30)
