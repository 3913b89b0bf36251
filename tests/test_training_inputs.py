from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from rich.console import Console

from mtkd_dist.config.presets import PRESETS
from mtkd_dist.methods import MTKD
from mtkd_dist.models import digest_file
from mtkd_dist.pools.placement import LayoutError, Resources
from mtkd_dist.stages import aggregate as aggregate_module
from mtkd_dist.stages import half_done
from mtkd_dist.stages import training as training_module
from mtkd_dist.stages.distil import distil_training
from mtkd_dist.stages.run import Run, layout_of
from mtkd_dist.stages.teachers import ReadyTeachers, run_teachers
from mtkd_dist.stages.training import Training, check_results, jobs_of
from mtkd_dist.train.checkpoints import Checkpoints
from tests.nets import make_aggregator, make_store, nearest_teacher


def run_of(**distil: object) -> Any:
    """What of a Run the inputs look at."""
    config = PRESETS["demo"]()
    config = dataclasses.replace(config, distil=dataclasses.replace(config.distil, **distil))  # type: ignore[arg-type]
    stores = {"images": SimpleNamespace(digest="abc"), "validation": SimpleNamespace(digest="d")}
    return SimpleNamespace(config=config, engine=None, **stores)


def training(run: Run, **changes: Any) -> Training:
    return Training("distil", "edsr-baseline", MTKD(), run.config.distil, {}, **changes)


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_every": 7},
        {"keep_checkpoints": 7},
        {"validate_every": 7},
        {"channels_last": True},
        {"compile": True},
    ],
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


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Runs the distil stage with settings, training replaced by nothing; returns what is said on the screen."""
    monkeypatch.setattr(training_module, "_train", lambda *_: ({}, {}))

    def start(on_change: str = "refuse", **distil: object) -> list[str]:
        run, said = run_of(**distil), []  # type: ignore[var-annotated]
        run.config = dataclasses.replace(run.config, on_change=on_change)
        run.output, run.seconds, run.say = tmp_path, {}, said.append
        training_module.train_stage(run, training(run), lambda weights: [])
        return said

    return start


def interrupted(output: Path, **distil: object) -> Path:
    """The checkpoints of a distil stage that went on to step 400."""
    run = run_of(**distil)
    checkpoints = half_done.begin(output / "distil", training(run).inputs(run))
    Checkpoints(checkpoints).write(400, {"step": 400}, 1, lambda: None)
    return checkpoints


def test_a_half_done_stage_is_refused_with_other_settings_and_loses_nothing(
    stage: Callable[..., list[str]], tmp_path: Path
) -> None:
    checkpoints = interrupted(tmp_path, learning_rate=0.1)
    with pytest.raises(half_done.StageChanged, match=r"distil\.learning_rate: 0\.1 -> 0\.2"):
        stage(learning_rate=0.2)
    assert Checkpoints(checkpoints).newest(pytest.fail) == 400
    assert list((tmp_path / "distil").iterdir()) == [checkpoints]
    stage(learning_rate=0.1)


def test_on_change_restart_begins_the_stage_anew_and_tidies_up_when_it_is_done(
    stage: Callable[..., list[str]], tmp_path: Path
) -> None:
    checkpoints = interrupted(tmp_path, learning_rate=0.1)
    stage(on_change="restart", learning_rate=0.2)
    assert not checkpoints.exists()


def test_a_finished_stage_runs_again_and_says_what_was_and_what_is(stage: Callable[..., list[str]]) -> None:
    stage(learning_rate=0.1)
    assert stage(learning_rate=0.1) == ["distil: done before"]
    assert stage(learning_rate=0.2) == ["distil: runs again, because of distil.learning_rate: 0.1 -> 0.2"]


@pytest.fixture
def aggregate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs the aggregate stage, training replaced by a file of its own; returns the file."""
    monkeypatch.setattr(training_module, "_train", lambda *_: ({}, {}))
    trained = itertools.count()

    def start(on_change: str = "refuse", learning_rate: float = 0.1) -> Path:
        run = run_of()
        config = dataclasses.replace(run.config.aggregate, learning_rate=learning_rate)
        run.config = dataclasses.replace(run.config, aggregate=config, on_change=on_change)
        run.output, run.seconds, run.say = tmp_path, {}, lambda text: None
        file = tmp_path / aggregate_module.FILE

        def write(weights: object) -> list[Path]:
            file.write_text(f"weights that no GPU makes twice: {next(trained)}")
            return [file]

        training_module.train_stage(run, Training("aggregate", "dctswin", MTKD(), config, {}), write)
        return file

    return start


def distil_half_done(output: Path, aggregator: Path) -> None:
    run = run_of()
    inputs = training(run, aggregator_digest=digest_file(aggregator)).inputs(run)
    Checkpoints(half_done.begin(output / "distil", inputs)).write(400, {"step": 400}, 1, lambda: None)


def test_an_aggregator_that_distil_is_half_done_with_is_not_trained_again(
    aggregate: Callable[..., Path], tmp_path: Path
) -> None:
    file = aggregate()
    before = file.read_text()
    distil_half_done(tmp_path, file)
    words = r"distil is half done \(step 400\)[^$]*  aggregate\.learning_rate: 0\.1 -> 0\.2"
    with pytest.raises(half_done.StageChanged, match=words):
        aggregate(learning_rate=0.2)
    assert len(list((tmp_path / "aggregate").glob("checkpoints-*"))) == 1
    aggregate()
    assert file.read_text() == before
    aggregate(on_change="restart", learning_rate=0.2)
    assert file.read_text() != before


def test_another_aggregator_is_not_put_in_the_place_of_one_that_distil_is_half_done_with(
    aggregate: Callable[..., Path], tmp_path: Path
) -> None:
    file = aggregate()
    before = file.read_text()
    distil_half_done(tmp_path, file)
    other = tmp_path / "other.safetensors"
    other.write_text("other weights")
    run = run_of()
    run.config, run.output = dataclasses.replace(run.config, aggregator=str(other)), tmp_path
    with pytest.raises(half_done.StageChanged, match=r"distil is half done \(step 400\)[^$]*aggregator: .*other"):
        aggregate_module.run_aggregate(run, ReadyTeachers((), {}, {}))
    assert file.read_text() == before


def test_more_students_at_least_than_there_are_is_refused() -> None:
    config = PRESETS["demo"]()
    config = dataclasses.replace(config, cluster=dataclasses.replace(config.cluster, min_students=2))
    with pytest.raises(LayoutError, match=r"--cluster\.min-students 2: the student pool has 1"):
        layout_of(config, Resources(cpus=4, gpus=0), config.distil, True)


def test_every_worker_is_told_which_files_the_run_began_with(tmp_path: Path) -> None:
    teachers = [nearest_teacher(tmp_path, name) for name in "ab"]
    given = [f"{teacher.path}:name={teacher.name}" for teacher in teachers]
    config = dataclasses.replace(PRESETS["demo"](), teachers=given, scale=2)
    console, tracker = Console(file=io.StringIO()), SimpleNamespace(stage=lambda stage: MagicMock())
    resources = Resources(cpus=4, gpus=0)
    run = Run(config, tmp_path / "out", console, tracker, resources, make_store(tmp_path), None, {})  # type: ignore[arg-type]
    ready = run_teachers(run)
    digests = [digest_file(teacher.path) for teacher in teachers]
    assert [file.digest for file in ready.files] == list(ready.digests.values()) == digests
    training = distil_training(run, ready, make_aggregator(tmp_path, teachers))
    _, job = jobs_of(run, training, layout_of(config, resources, config.distil, True))
    assert job is not None
    assert [file.digest for file in job.teachers] == digests
    assert job.aggregator_digest == digest_file(tmp_path / "aggregator.safetensors")
