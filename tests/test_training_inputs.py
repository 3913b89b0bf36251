from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from mtkd_dist.config.presets import PRESETS
from mtkd_dist.methods import MTKD
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.training import Training, check_results


def run_of(**distil: object) -> Any:
    """What of a Run the inputs look at."""
    config = PRESETS["demo"]()
    config = dataclasses.replace(config, distil=dataclasses.replace(config.distil, **distil))  # type: ignore[arg-type]
    return SimpleNamespace(config=config, images=SimpleNamespace(digest="abc"), validation=SimpleNamespace(digest="d"))


def training(run: Run, **changes: Any) -> Training:
    return Training("distil", "edsr-baseline", MTKD(), run.config.distil, {}, **changes)


@pytest.mark.parametrize(
    "change", [{"checkpoint_every": 7}, {"validate_every": 7}, {"channels_last": True}, {"compile": True}]
)
def test_what_changes_no_weight_but_by_rounding_begins_no_training_anew(change: dict[str, object]) -> None:
    before, after = run_of(), run_of(**change)
    assert training(before).inputs(before) == training(after).inputs(after)
    assert training(before).choice(before) == training(after).choice(after)


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"clip_grad": 1.0}, {"ema": 0.5}])
def test_what_changes_weights_does(change: dict[str, object]) -> None:
    before, after = run_of(), run_of(**change)
    assert training(before).inputs(before) != training(after).inputs(after)


def test_other_weights_to_start_from_are_another_training() -> None:
    run = run_of()
    assert training(run, start_digest="a").inputs(run) != training(run, start_digest="b").inputs(run)


def test_to_hand_on_the_best_weights_instead_of_the_last_needs_no_other_training() -> None:
    last, best = run_of(), run_of(result="best")
    assert training(last).inputs(last) == training(best).inputs(best)
    assert training(last).choice(last) != training(best).choice(best)


def test_the_best_weights_are_refused_where_no_photograph_could_be_held_out() -> None:
    run = run_of(result="best")
    check_results(run)
    run.validation, run.images = None, ["the only one"]
    with pytest.raises(ValueError, match=r"distil\.result: best needs held-out photographs, and none of the 1"):
        check_results(run)
