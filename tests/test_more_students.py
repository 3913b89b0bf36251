"""Several students of one configuration: their names, files, scores, and when they begin anew."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor

from mtkd_dist import launch
from mtkd_dist.config.load import ConfigError, load_config
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.models import load_network, network_names, parse_network, read_metadata
from mtkd_dist.pools.evaluate import score_photos_here
from mtkd_dist.pools.placement import Layout, PoolSize, Resources
from mtkd_dist.pools.render import Rendering
from mtkd_dist.report.history import History
from mtkd_dist.stages import evaluate, manifest
from mtkd_dist.stages.check import check
from mtkd_dist.stages.course import Course
from mtkd_dist.stages.distil import distil_training, run_distil
from mtkd_dist.stages.evaluate import run_evaluate
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.students import more_students, student_titles
from mtkd_dist.stages.teachers import run_teachers
from mtkd_dist.stages.training import Training, jobs_of
from mtkd_dist.train.job import StudentNet
from mtkd_dist.train.news import Update
from mtkd_dist.train.state import TrainState
from tests.nets import TINY, make_job, make_store, nearest_teacher

RLFN = "rlfn:width=6,blocks=3"
ONE = PoolSize(workers=1, cpus=1, gpus=0)


class Untrained:
    """An `Engine` that ends with the weights that a training begins with."""

    def train(self, run: Run, training: Training, checkpoints: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        student, _ = jobs_of(run, training, Layout(ONE, None))
        return TrainState(student.build(), student.training).result(), {}

    def render(self, renderings: Sequence[Rendering]) -> Iterator[tuple[str, int]]:
        raise AssertionError


def run_of(folder: Path, more: list[str]) -> Run:
    config = dataclasses.replace(
        PRESETS["demo"](),
        method="kd",
        scale=2,
        teachers=[str(nearest_teacher(folder, name).path) for name in "ab"],
        student=TINY,
        more_students=more,
    )
    store = make_store(folder)
    tracker = SimpleNamespace(stage=lambda stage: MagicMock())
    resources = Resources(cpus=2, gpus=0)
    (folder / "out").mkdir(exist_ok=True)
    console = Console(file=io.StringIO(), width=200)
    return Run(config, folder / "out", console, tracker, resources, store, None, {"held": store}, engine=Untrained())  # type: ignore[arg-type]


@given(
    st.lists(
        st.sampled_from([*network_names(), TINY, RLFN, "rcan:groups=2,blocks=1", "edsr:res_scale=0.2"]), unique=True
    )
)
def test_each_is_named_after_its_network_and_no_two_alike(texts: list[str]) -> None:
    config = dataclasses.replace(PRESETS["demo"](), student="rlfn:width=7", more_students=texts)
    found = more_students(config)
    assert [net.network for net in found] == [parse_network(text).text for text in texts]
    names = [net.name for net in found]
    assert len({*names, "student"}) == len(names) + 1
    # Of what files, metrics and submodules may be called.
    assert all(name.replace("-", "").replace("_", "").isalnum() for name in names)
    assert student_titles(config) == ["student", *(f"student-{name}" for name in names)]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--more-students", "rlfm"], ["more_students", "rlfm", "Did you mean 'rlfn'"]),
        (["--more-students", "rlfn", "rlfn"], ["more_students", "'rlfn' is there twice", "take one of them out"]),
        (["--more-students", "edsr-baseline:blocks=16"], ["'edsr-baseline:blocks=16' is there twice"]),
        (["--more-students", "rlfn", "--teachers", "edsr:name=student-rlfn"], ["more_students", "name=OTHER"]),
    ],
)
def test_students_that_could_not_be_told_apart_are_refused(argv: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(load_config(["--student", "edsr-baseline", *argv]))
    for word in words:
        assert word in str(error.value)


def test_each_ends_in_a_file_with_scores_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "score_photos", lambda jobs, photos, *_: score_photos_here(jobs, photos))
    run = run_of(tmp_path, [RLFN])
    teachers = run_teachers(run)
    student = run_distil(run, teachers, None)
    title = "student-rlfn-width-6-blocks-3"
    files = {"student": TINY, title: RLFN}
    assert launch._weights(run.config) == [f"{one}.safetensors" for one in files]
    for one, network in files.items():
        loaded = load_network(run.output / f"{one}.safetensors", scale=2)
        assert loaded.architecture == network
        assert read_metadata(run.output / f"{one}.safetensors")["method"] == "kd"
        # As it would begin alone.
        torch.manual_seed(run.config.seed)
        alone = TrainState(
            dataclasses.replace(make_job(make_store(tmp_path)), network=network, seed=run.config.seed).build(),
            run.config.distil,
        ).result()
        assert all(torch.equal(value, alone[key]) for key, value in loaded.module.state_dict().items())
    done = manifest.read(run.output / "distil")
    assert done is not None
    assert list(done.outputs) == [f"{one}.safetensors" for one in files]
    rows = run_evaluate(run, teachers, None, student)
    assert [row["model"] for row in rows if row["role"] == "student"] == list(files)
    assert len({row["params"] for row in rows if row["role"] == "student"}) == 2
    scored = manifest.read(run.output / "distil")
    assert scored is not None
    assert [row["model"] for row in scored.scores] == list(files)
    run_distil(run, teachers, None)
    assert run_evaluate(run, teachers, None, student) == rows
    said = run.console.file.getvalue()  # type: ignore[attr-defined]
    assert "distil: done before" in said
    assert "evaluate: done before" in said
    (run.output / f"{title}.safetensors").unlink()
    run_distil(run, teachers, None)
    assert (run.output / f"{title}.safetensors").exists()


def test_further_students_are_another_training_and_no_further_ones_the_same_as_ever(tmp_path: Path) -> None:
    run = run_of(tmp_path, [])
    training = distil_training(run, run_teachers(run), None)
    before = training.inputs(run)
    assert "more_students" not in before
    more = (StudentNet("other", RLFN, tmp_path / "start.safetensors", "abc"),)
    changed = dataclasses.replace(training, more=more)
    assert changed.inputs(run) == before | {"more_students": [["other", RLFN, "abc"]]}
    student, _ = jobs_of(run, changed, Layout(ONE, None))
    assert student.students == changed.students == (StudentNet("student", TINY), *more)


def test_the_screen_and_the_tracking_name_whose_score_it_is(tmp_path: Path) -> None:
    job = dataclasses.replace(make_job(make_store(tmp_path)), more=(StudentNet("rlfn", RLFN),))
    said: list[str] = []
    tracked = MagicMock()
    history = History(tmp_path / "course.jsonl", 1, said.append)
    course = Course(
        "distil", Layout(ONE, None), job, PRESETS["demo"]().link, MagicMock(), tracked, history, said.append
    )
    record = {"step": 4, "photos": 2}
    for prefix, score in (("", 30.0), ("rlfn/", 31.0)):
        record |= {f"{prefix}validation_psnr_y": score, f"{prefix}best_step": 4, f"{prefix}best_psnr_y": score}
    course.update(Update([], None, {}, [record], []))
    assert said == [
        "distil: step 4, student, PSNR-Y 30.00 dB on 2 held-out photographs (the best so far)",
        "distil: step 4, rlfn, PSNR-Y 31.00 dB on 2 held-out photographs (the best so far)",
    ]
    metrics = json.dumps([call.args for call in tracked.metrics.call_args_list])
    assert '{"validation_psnr_y": 30.0}' in metrics
    assert '{"rlfn/validation_psnr_y": 31.0}' in metrics
