"""Room for rendered answers, and the choice between live and cached: decisions without Ray."""

from __future__ import annotations

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from mtkd_dist.config.load import ConfigError, load_config
from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.pools.evaluate import AGGREGATE
from mtkd_dist.stages import answers_choice, half_done, manifest
from mtkd_dist.stages import check as checks
from mtkd_dist.stages.answers import SPARE_BYTES, Room
from mtkd_dist.stages.answers_choice import Costs, choose, costs, made_with, reads_rendered, trained_before
from mtkd_dist.stages.manifest import Manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.teachers import ReadyTeachers

GB = 10**9
FOLDER = Path("outputs")
sizes = st.integers(0, 10**13)


@given(needed=sizes, present=sizes, allowed=sizes, free=sizes)
def test_rendering_starts_only_where_what_it_needs_fits_into_both_bounds(
    needed: int, present: int, allowed: int, free: int
) -> None:
    fits = needed == 0 or (present + needed <= allowed and needed + SPARE_BYTES <= free)
    assert (Room(needed, present, allowed, free).refusal(FOLDER) is None) == fits


@pytest.mark.parametrize("room", [Room(30 * GB, 5 * GB, 34 * GB, 99 * GB), Room(30 * GB, 5 * GB, 99 * GB, 31 * GB)])
def test_a_refusal_says_bytes_and_remedies(room: Room) -> None:
    refusal = room.refusal(FOLDER)
    assert refusal is not None
    for words in ("30.0 GB more in outputs", "5.0 GB are", "uint8", "answers.max_bytes", "--teacher-outputs live"):
        assert words in refusal


def test_what_is_rendered_is_used_although_the_bound_was_lowered() -> None:
    assert Room(needed=0, present=5 * GB, allowed=1, free=0).refusal(FOLDER) is None


def test_costs_are_those_of_all_samples_against_those_of_all_photographs() -> None:
    seconds = {"a": 1e-3, "b": 2e-3, AGGREGATE: 5e-4}
    training = TrainingConfig(steps=100, batch_size=4, patch=10)
    missing = {"a": 0, "b": 1_000, AGGREGATE: 2_000}
    found = costs(seconds, training, training, missing, 77)
    samples = 100 * 4 * 10 * 10
    assert found.live_seconds == pytest.approx(samples * 3.5e-3 + samples * 3e-3)
    assert found.cached_seconds == pytest.approx(1_000 * 2e-3 + 2_000 * 5e-4)
    assert found.cached_bytes == 77
    # An aggregator that is given is not trained.
    assert costs(seconds, None, training, missing, 77).live_seconds == pytest.approx(samples * 3.5e-3)


@given(live=st.floats(0, 1e9), cached=st.floats(0, 1e9), room=st.booleans())
def test_the_cheaper_way_that_is_possible_is_chosen(live: float, cached: float, room: bool) -> None:
    choice = choose(Costs(live, cached, GB), None if room else "no room here")
    assert choice.cached == (room and cached < live)
    assert ("no room here" in choice.why) != room
    assert "live costs" in choice.why
    assert "1.0 GB" in choice.why


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"answers\.folder.*a folder, and this is a file"):
        checks.check(load_config(["--answers.folder", str(tmp_path / "file")]))


LIVE, CACHED = {"steps": 4, "slot_size": 2}, {"steps": 4, "teacher_outputs": {"dtype": "float16"}}


def half_done_training(output: Path, stage: str, inputs: dict[str, Any], steps: int = 1) -> Path:
    checkpoints = half_done.begin(output / stage, inputs)
    for step in range(steps):
        (checkpoints / f"step-{step:06}.pt").touch()
        (checkpoints / f"step-{step:06}.pt.sha256").touch()
    return checkpoints


def finished_training(output: Path, stage: str, inputs: dict[str, Any]) -> None:
    (output / stage).mkdir(parents=True, exist_ok=True)
    manifest.write(output / stage, Manifest(stage=stage, inputs=inputs, outputs={}, seed=0, seconds=1.0))


def test_inputs_say_how_teachers_answered() -> None:
    assert made_with(CACHED) is True
    assert made_with(LIVE) is False
    assert made_with({"file": "digest"}) is None


@pytest.mark.parametrize(("inputs", "cached"), [(LIVE, False), (CACHED, True)])
@pytest.mark.parametrize("leave", [half_done_training, finished_training])
def test_what_was_trained_says_how(tmp_path: Path, leave: Any, inputs: dict[str, Any], cached: bool) -> None:
    finished_training(tmp_path, "aggregate", {"file": "one that is given", "teachers": {}})
    assert trained_before(tmp_path) is None
    leave(tmp_path, "distil", inputs)
    assert trained_before(tmp_path) == ("distil", cached)


def test_a_training_without_a_checkpoint_binds_nobody(tmp_path: Path) -> None:
    half_done_training(tmp_path, "aggregate", CACHED, steps=0)
    assert trained_before(tmp_path) is None


def test_the_last_of_several_trainings_counts(tmp_path: Path) -> None:
    finished_training(tmp_path, "aggregate", CACHED)
    os.utime(tmp_path / "aggregate" / manifest.FILE, (0, 0))
    half_done_training(tmp_path, "aggregate", LIVE)
    assert trained_before(tmp_path) == ("aggregate", False)


@pytest.mark.parametrize(("inputs", "cached"), [(LIVE, False), (CACHED, True)])
def test_auto_stays_with_what_was_trained_whatever_is_changed(
    tmp_path: Path, inputs: dict[str, Any], cached: bool
) -> None:
    half_done_training(tmp_path, "aggregate", inputs)
    for changes in (["--distil.steps", "9"], ["--answers.max-bytes", "1"], ["--answers.folder", str(tmp_path)]):
        out = io.StringIO()
        config = load_config(["--teacher-outputs", "auto", *changes])
        run = Run(config, tmp_path, Console(file=out), *cast(Any, [None, None, None, None, {}]))
        # Neither measured nor written down: there are no teachers here, and no photographs.
        assert reads_rendered(run, ReadyTeachers((), {}, {})) == cached
        assert f"{'cached' if cached else 'live'}, as aggregate was trained before" in out.getvalue()
    assert not (tmp_path / "answers").exists()


def launch_with(output: Path, images: Any, monkeypatch: pytest.MonkeyPatch, *changes: str) -> bool:
    """Whether a launch with `changes` reads rendered images, where there is room for them."""
    monkeypatch.setattr(answers_choice, "_refusal", lambda run, teachers: None)
    config = load_config(["--teacher-outputs", "auto", *changes])
    tracker = SimpleNamespace(stage=lambda stage: MagicMock())
    run = Run(config, output, Console(file=io.StringIO()), *cast(Any, [tracker, None, images, None, {}]))
    return reads_rendered(run, ReadyTeachers((), {}, {}))


def test_a_choice_is_not_made_again_for_more_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = SimpleNamespace(digest="photographs")
    monkeypatch.setattr(answers_choice, "_measure", lambda run, teachers: Costs(2.0, 1.0, GB))
    assert launch_with(tmp_path, images, monkeypatch)
    monkeypatch.setattr(answers_choice, "_measure", lambda run, teachers: Costs(1.0, 2.0, GB))
    assert launch_with(tmp_path, images, monkeypatch, "--answers.max-bytes", "7")
    assert launch_with(tmp_path, images, monkeypatch, "--answers.folder", str(tmp_path))
    assert not launch_with(tmp_path, images, monkeypatch, "--distil.steps", "9")
