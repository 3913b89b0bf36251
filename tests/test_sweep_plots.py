from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from PIL import Image

from mtkd_tune.plots import IMPORTANCE, PARALLEL, draw, evaluator, scored, study_of, why_not
from mtkd_tune.rows import TrialRow
from tests.trial_rows import SPACE, row


def _sweep(count: int = 12) -> list[TrialRow]:
    """The score is the learning rate's doing; the levels only make it tremble."""
    random = np.random.default_rng(0)
    rates = np.exp(random.uniform(np.log(5e-4), np.log(5e-3), count))
    levels = random.integers(1, 4, count)
    return [
        row(
            i,
            30 + float(np.log(rate)) + 0.01 * int(level),
            values={"loss.levels": int(level), "distil.learning_rate": float(rate)},
        )
        for i, (rate, level) in enumerate(zip(rates, levels, strict=True))
    ]


def test_done_and_stopped_trials_with_a_score_are_shown() -> None:
    rows = [
        row(0),
        row(1, status="stopped"),
        row(2, None),
        row(3, status="failed"),
        row(4, float("nan")),
        row(5, status="running"),
    ]
    assert [one.name for one in scored(rows)] == ["trial-0000", "trial-0001"]


def test_a_stopped_trial_is_complete_as_for_the_search() -> None:
    study = study_of([row(0), row(1, 29.0, "stopped")], SPACE)
    assert [(trial.state, trial.value) for trial in study.trials] == [
        (optuna.trial.TrialState.COMPLETE, 30.0),
        (optuna.trial.TrialState.COMPLETE, 29.0),
    ]


def test_a_list_is_told_as_it_was_drawn() -> None:
    space = {"loss.band_weights": CategoricalDistribution(["[1.0, 1.0]", "[1.0, 2.0]"])}
    study = study_of([row(0, values={"loss.band_weights": [1.0, 2.0]})], space)
    assert study.trials[0].params == {"loss.band_weights": "[1.0, 2.0]"}


def test_what_the_score_depends_on_is_the_most_important() -> None:
    shares = optuna.importance.get_param_importances(study_of(_sweep(), SPACE), evaluator=evaluator())
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["distil.learning_rate"] > shares["loss.levels"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "there is none"),
        ([row(0), row(1, status="failed")], "there is one"),
        ([row(0), row(1), row(2)], "all 3 trials have the same score"),
        ([row(0, 30.0), row(3, 31.0, values=row(0).values)], "all 2 trials have the same values"),
    ],
)
def test_with_too_little_to_see_the_plots_are_left_out_with_the_reason(rows: list[TrialRow], reason: str) -> None:
    said = why_not(rows, SPACE)
    assert said is not None
    assert reason in said
    assert IMPORTANCE in said


@pytest.mark.parametrize("count", [2, 12])
def test_both_plots_are_pictures(tmp_path: Path, count: int) -> None:
    assert why_not(_sweep(count), SPACE) is None
    assert draw(_sweep(count), SPACE, tmp_path) == [tmp_path / IMPORTANCE, tmp_path / PARALLEL]
    for name in (IMPORTANCE, PARALLEL):
        with Image.open(tmp_path / name) as image:
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5


def test_drawing_leaves_the_style_of_the_process_as_it_was(tmp_path: Path) -> None:
    before = matplotlib.rcParams["axes.facecolor"]
    draw(_sweep(), SPACE, tmp_path)
    assert matplotlib.rcParams["axes.facecolor"] == before
