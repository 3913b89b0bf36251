"""Trainings with CrossKD: the tails and adapters are there while it lasts, and no part of what it is for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtkd_dist.data import ImageStore
from mtkd_dist.methods import CrossKD
from mtkd_dist.methods.adapters import StudentWithAdapters
from mtkd_dist.models import build_network, digest_file, load_network, load_strict, save_network
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.train.alone import train_alone
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.nonfinite import NonFiniteLoss
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.validation import Validation, ValidationJob
from tests.nets import Answered, make_job, make_store, share

SAME = "edsr-baseline:width=8,blocks=3"
"""As wide as the student, so that no adapter stands before its tail."""
WIDER = "rcan-light:groups=3,blocks=1,width=16,reduction=4"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return make_store(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[TeacherFile, ...]:
    folder = tmp_path_factory.mktemp("teachers")
    files = []
    for name, text in (("same", SAME), ("wider", WIDER)):
        torch.manual_seed(3)
        path = folder / f"{name}.safetensors"
        save_network(path, build_network(text, 2), {"network": text, "scale": "2"})
        files.append(TeacherFile(name, path, None, digest_file(path)))
    return tuple(files)


@pytest.fixture
def job(store: ImageStore, teachers: tuple[TeacherFile, ...]) -> StudentJob:
    made = make_job(store, CrossKD(), steps=6, checkpoint_every=2, validate_every=3, learning_rate=1e-3)
    return dataclasses.replace(made, network=SAME, tails=teachers)


def run(job: StudentJob, folder: Path, **given: Any) -> dict[str, torch.Tensor]:
    said: dict[str, Any] = {"validation": None, "validated": lambda record: None, "say": lambda note: None}
    return train_alone(job, folder, source=Answered.by(job), **(said | given))


def test_every_rank_begins_with_the_same_student_and_adapters(job: StudentJob) -> None:
    first, other = job.build(), job.build()
    assert isinstance(first, StudentWithAdapters)
    assert [type(adapter).__name__ for adapter in first.adapters] == ["Identity", "Conv2d"]
    begun, plain = other.state_dict(), job.build_shipped().state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in first.state_dict().items())
    assert all(torch.equal(value, begun[f"student.{name}"]) for name, value in plain.items())


class Stopped(BaseException):
    pass


def test_one_that_goes_on_from_a_checkpoint_ends_bit_equal_and_with_the_students_weights_alone(
    job: StudentJob, tmp_path: Path
) -> None:
    whole = run(job, tmp_path / "whole")

    def stop(records: list[dict[str, Any]]) -> None:
        if records[-1]["step"] >= 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(job, tmp_path / "run", post=stop)
    resumed = run(job, tmp_path / "run")
    assert resumed.keys() == whole.keys() == build_network(SAME, 2).state_dict().keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    begun = job.build_shipped().state_dict()
    assert not all(torch.equal(value, begun[name]) for name, value in whole.items())


def test_the_adapters_learn_too_and_are_in_the_average(job: StudentJob) -> None:
    state = TrainState(job.build(), job.training)
    before = state.model.get_parameter("adapters.1.weight").clone()
    source = Answered(job, share(job), torch.device("cpu"))
    job.method.loss(state.model, source.fetch(0)).total.backward()
    state.update(torch.ones(()))
    after = state.model.get_parameter("adapters.1.weight")
    assert not torch.equal(after, before)
    assert state.ema is not None
    assert torch.equal(state.ema.get_parameter("adapters.1.weight"), after)


def test_its_validation_scores_and_keeps_the_plain_student(job: StudentJob, tmp_path: Path) -> None:
    photos = make_store(tmp_path / "held-out", 1, side=40)
    metadata = {"network": SAME, "scale": "2"}
    validation = ValidationJob(job, photos.folder, (), tmp_path / "best.safetensors", metadata)
    records: list[dict[str, Any]] = []
    weights = run(job, tmp_path / "run", validation=validation, validated=records.append)
    assert [record["step"] for record in records] == [3, 6]
    plain = ValidationJob(
        dataclasses.replace(job, tails=()), photos.folder, (), tmp_path / "other.safetensors", metadata
    )
    expected = Validation(plain).run(6, {name: np.asarray(tensor) for name, tensor in weights.items()})
    assert records[-1]["validation_psnr_y"] == expected["validation_psnr_y"]
    load_strict(load_network(validation.best).module, weights, "the best")


def test_a_loss_that_is_not_finite_names_the_samples(job: StudentJob, tmp_path: Path) -> None:
    bad = dataclasses.replace(job, training=dataclasses.replace(job.training, learning_rate=1e30))
    with pytest.raises(NonFiniteLoss, match=r"the loss is not finite at step 1 .*l1_crossed.*every sample"):
        run(bad, tmp_path)


def test_a_teacher_that_is_not_the_file_that_the_run_began_with_is_refused(job: StudentJob) -> None:
    changed = dataclasses.replace(job.tails[0], digest="0" * 64)
    with pytest.raises(ValueError, match=r"same\.safetensors is not the file that this run began with"):
        dataclasses.replace(job, tails=(changed,)).build()
