"""How a sweep shares out a cluster among its trials and their teachers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.pools.placement import LayoutError, Resources
from mtkd_tune.room import room_of
from mtkd_tune.tree import SweepConfig, TrialConfig


def test_without_gpus_a_trial_runs_on_each_core() -> None:
    room = room_of(SweepConfig(), Resources(cpus=4, gpus=0), live=False)
    assert (room.concurrent, room.trial.gpus, room.teachers) == (4, 0, None)


def test_trials_share_a_card_where_they_ask_for_a_part_of_it() -> None:
    room = room_of(SweepConfig(trial=TrialConfig(gpus=1 / 3)), Resources(cpus=16, gpus=2), live=False)
    assert room.concurrent == 6


@pytest.mark.parametrize(("of_trial", "concurrent"), [(0.4, 4), (0.75, 2), (0.5, 4)])
def test_a_trial_never_gets_what_is_left_of_two_cards(of_trial: float, concurrent: int) -> None:
    room = room_of(SweepConfig(trial=TrialConfig(gpus=of_trial)), Resources(cpus=16, gpus=2), live=False)
    assert room.concurrent == concurrent


def test_live_teachers_take_their_part_first() -> None:
    room = room_of(SweepConfig(teacher_gpus=6), Resources(cpus=16, gpus=8), live=True)
    assert room.teachers is not None
    assert (room.teachers.workers, room.concurrent) == (6, 2)


def test_one_card_is_shared_by_live_teachers_and_one_trial() -> None:
    room = room_of(SweepConfig(), Resources(cpus=4, gpus=1), live=True)
    assert room.teachers is not None
    assert (room.teachers.gpus, room.trial.gpus, room.concurrent) == (0.5, 0.5, 1)


@pytest.mark.parametrize(
    ("sweep", "available", "words"),
    [
        (SweepConfig(num_gpus=8), Resources(cpus=4, gpus=2), "has 2 GPUs"),
        (SweepConfig(trial=TrialConfig(cpus=3)), Resources(cpus=2, gpus=0), "a trial wants 3 CPUs"),
        (SweepConfig(teacher_workers=2), Resources(cpus=2, gpus=0), "teacher_workers"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_flag(sweep: SweepConfig, available: Resources, words: str) -> None:
    with pytest.raises(LayoutError, match=words):
        room_of(sweep, available, live=True)


@given(
    cpus=st.integers(1, 64),
    gpus=st.integers(0, 16),
    of_trial=st.sampled_from([None, 0.1, 0.25, 1 / 3, 0.5, 1.0]),
    live=st.booleans(),
)
def test_what_is_given_out_is_never_more_than_there_is(cpus: int, gpus: int, of_trial: float, live: bool) -> None:
    available = Resources(cpus=cpus, gpus=gpus)
    try:
        room = room_of(SweepConfig(trial=TrialConfig(gpus=of_trial if gpus else None)), available, live)
    except LayoutError:
        return
    teachers = room.teachers
    assert room.concurrent * room.trial.gpus + (teachers.workers * teachers.gpus if teachers else 0) <= gpus + 1e-6
    assert room.concurrent * room.trial.cpus + (teachers.workers * teachers.cpus if teachers else 0) <= cpus + 1e-6
    assert room.concurrent >= 1
