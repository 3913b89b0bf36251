from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtkd_dist.stages import manifest
from mtkd_dist.stages.half_done import INPUTS, StageChanged, begin, check_later, check_unchanged
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.train.checkpoints import Checkpoints

OLD = {"training": {"learning_rate": 0.1}, "images": "a" * 64}
NEW = {"training": {"learning_rate": 0.2}, "images": "a" * 64}


def half_done(folder: Path, inputs: dict[str, Any]) -> Path:
    checkpoints = begin(folder, inputs)
    Checkpoints(checkpoints).write(400, {"step": torch.tensor(400)}, 1, lambda: None)
    return checkpoints


def check(folder: Path, inputs: dict[str, Any], finished: Manifest | None = None) -> None:
    check_unchanged("distil", folder, inputs, finished, {"training": "distil"})


def test_other_settings_than_those_of_a_half_done_stage_are_refused_with_both_and_what_mends_it(tmp_path: Path) -> None:
    half_done(tmp_path, OLD)
    with pytest.raises(StageChanged) as error:
        check(tmp_path, NEW)
    for part in (
        "distil is half done (step 400)",
        "distil.learning_rate: 0.1 -> 0.2",
        "--output",
        "--on-change restart",
    ):
        assert part in str(error.value)


def test_the_former_settings_go_on(tmp_path: Path) -> None:
    half_done(tmp_path, OLD)
    check(tmp_path, OLD)


def test_a_stage_without_a_checkpoint_is_begun_with_any_settings(tmp_path: Path) -> None:
    begin(tmp_path, OLD)
    check(tmp_path, NEW)


def test_after_a_restart_with_other_settings_both_go_on(tmp_path: Path) -> None:
    half_done(tmp_path, OLD)
    half_done(tmp_path, NEW)
    check(tmp_path, OLD)
    check(tmp_path, NEW)


def test_checkpoints_of_a_finished_training_refuse_nothing(tmp_path: Path) -> None:
    half_done(tmp_path, OLD)
    finished = Manifest("distil", OLD | {"result": "best"}, {}, seed=0, seconds=1.0)
    check(tmp_path, NEW, finished)


def test_checkpoints_whose_inputs_cannot_be_read_are_refused_with_the_file(tmp_path: Path) -> None:
    (half_done(tmp_path, OLD) / INPUTS).write_text("{torn")
    with pytest.raises(StageChanged, match=r"inputs\.json cannot be read"):
        check(tmp_path, NEW)


AGGREGATOR, TEACHER = "b" * 64, "c" * 64
DISTIL = OLD | {"aggregator": AGGREGATOR, "teachers": [["edsr", TEACHER, None]]}


def later(stage: str, output: Path, digest: str) -> None:
    result = Manifest(stage, {}, {"result.safetensors": digest}, seed=0, seconds=1.0)
    check_later(stage, output, result, ["aggregate.learning_rate: 0.1 -> 0.2"])


@pytest.mark.parametrize(("stage", "digest"), [("aggregate", AGGREGATOR), ("teachers/edsr", TEACHER)])
def test_a_result_is_not_made_again_while_a_later_stage_is_half_done_with_it(
    tmp_path: Path, stage: str, digest: str
) -> None:
    half_done(tmp_path / "distil", DISTIL)
    with pytest.raises(StageChanged) as error:
        later(stage, tmp_path, digest)
    for part in (
        f"{stage} is finished and would be made again, but distil is half done (step 400)",
        "aggregate.learning_rate: 0.1 -> 0.2",
        "what was there before",
        "--output",
        "--on-change restart",
    ):
        assert part in str(error.value)


def test_a_teacher_is_not_made_again_while_the_aggregator_is_half_done_with_it(tmp_path: Path) -> None:
    half_done(tmp_path / "aggregate", {"teachers": [["edsr", TEACHER, None]]})
    with pytest.raises(StageChanged, match=r"but aggregate is half done \(step 400\)"):
        later("teachers/edsr", tmp_path, TEACHER)


def test_a_later_stage_whose_inputs_cannot_be_read_may_depend_on_all_results(tmp_path: Path) -> None:
    (half_done(tmp_path / "distil", DISTIL) / INPUTS).unlink()
    with pytest.raises(StageChanged, match="distil is half done"):
        later("aggregate", tmp_path, AGGREGATOR)


def test_a_later_stage_that_is_half_done_with_another_result_or_has_no_checkpoint_refuses_nothing(
    tmp_path: Path,
) -> None:
    half_done(tmp_path / "distil", DISTIL)
    begin(tmp_path / "aggregate", {"teachers": [["edsr", "d" * 64, None]]})
    later("aggregate", tmp_path, "d" * 64)
    later("teachers/edsr", tmp_path, "d" * 64)


def test_checkpoints_of_this_stage_and_of_earlier_ones_are_no_later_stage(tmp_path: Path) -> None:
    half_done(tmp_path / "distil", DISTIL)
    half_done(tmp_path / "aggregate", DISTIL)
    later("distil", tmp_path, AGGREGATOR)


def test_a_later_stage_that_is_finished_runs_again_after_all(tmp_path: Path) -> None:
    half_done(tmp_path / "distil", DISTIL)
    manifest.write(tmp_path / "distil", Manifest("distil", DISTIL | {"result": "best"}, {}, seed=0, seconds=1.0))
    later("aggregate", tmp_path, AGGREGATOR)
