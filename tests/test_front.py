from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mtkd_tune.front import dominates, front, front_markdown, plot_front
from mtkd_tune.ranking import contenders
from mtkd_tune.rows import TrialRow
from mtkd_tune.tree import Objective
from tests.trial_rows import row, sweeps

_objectives = st.sampled_from([["psnr_y", "params"], ["psnr_y", "latency_ms"], ["psnr_y", "params", "latency_ms"]])


@given(sweeps(), _objectives)
def test_nothing_on_the_front_is_dominated(rows: list[TrialRow], objectives: list[Objective]) -> None:
    on_front = front(rows, objectives)
    assert not any(dominates(other, one, objectives) for one in on_front for other in contenders(rows, objectives))


@given(sweeps(), _objectives)
def test_what_is_not_on_the_front_is_dominated_by_something_on_it(
    rows: list[TrialRow], objectives: list[Objective]
) -> None:
    on_front = front(rows, objectives)
    beaten = [one for one in contenders(rows, objectives) if one not in on_front]
    assert all(any(dominates(one, other, objectives) for one in on_front) for other in beaten)


@given(sweeps(), _objectives)
def test_a_front_is_empty_only_where_nothing_can_be_compared(rows: list[TrialRow], objectives: list[Objective]) -> None:
    assert bool(front(rows, objectives)) == bool(contenders(rows, objectives))


@given(sweeps(), _objectives, st.randoms())
def test_the_order_of_the_trials_plays_no_part(rows: list[TrialRow], objectives: list[Objective], random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(rows, len(rows))
    assert front(shuffled, objectives) == front(rows, objectives)


def test_a_trial_dominates_no_equal_one() -> None:
    assert not dominates(row(0, params=10), row(1, params=10), ["psnr_y", "params"])


def test_more_decibels_and_fewer_parameters_win() -> None:
    rows = [row(0, 30.0, params=100), row(1, 31.0, params=200), row(2, 29.9, params=150)]
    assert [one.name for one in front(rows, ["psnr_y", "params"])] == ["trial-0001", "trial-0000"]


def test_the_table_of_the_front_has_units_and_what_was_searched() -> None:
    text = front_markdown([row(0, 30.0, params=1234), row(1, 29.0, params=5678)], ["psnr_y", "params"])
    assert text.splitlines()[0] == "| trial | PSNR-Y [dB] | parameters | loss.levels | distil.learning_rate |"
    assert text.splitlines()[2] == "| trial-0000 | 30.000 | 1.23K | 1 | 0.0005 |"
    assert "1 of 2 trials" in text
    assert "trial-0001" not in text


@pytest.mark.parametrize("objectives", [["psnr_y", "params"], ["psnr_y", "params", "latency_ms"]])
def test_the_front_is_drawn_in_a_panel_for_each_further_objective(tmp_path: Path, objectives: list[Objective]) -> None:
    rows = [row(i, 28.0 + i % 5, params=1000 * (1 + i % 7), latency_ms=1.5 + i % 4) for i in range(12)]
    plot_front(rows, objectives, tmp_path / "front.png")
    with Image.open(tmp_path / "front.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (720, 960 * (len(objectives) - 1), 3)
    # The front's colour is there, in every panel.
    red = (pixels == (0xC1, 0x12, 0x1F)).all(-1)
    assert all(half.any() for half in np.split(red, len(objectives) - 1, axis=1))
