from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtkd_dist.data import ImageStore
from mtkd_dist.metrics import psnr_y, to_uint8
from mtkd_dist.models import aggregator_metadata, load_aggregator, load_network, read_metadata
from mtkd_dist.pools.teacher_worker import digests_of
from mtkd_dist.train import validation
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.validation import CROP, PHOTOS, Validation, ValidationJob
from tests.nets import TINY, TINY_AGGREGATOR, make_job, make_store, make_teacher, train_alone

Weights = dict[str, Any]
METADATA = {"network": TINY, "scale": "2"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return make_store(tmp_path_factory.mktemp("held-out"), count=2, side=48)


@pytest.fixture
def job(photos: ImageStore, tmp_path: Path) -> ValidationJob:
    return ValidationJob(
        make_job(make_store(tmp_path), validate_every=2), photos.folder, (), tmp_path / "best.safetensors", METADATA
    )


def arrays(network: torch.nn.Module) -> Weights:
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}


def worse(weights: Weights) -> Weights:
    """Another colour in each pixel."""
    return weights | {"tail.1.bias": weights["tail.1.bias"] + 0.5}


def test_the_score_is_the_mean_psnr_of_the_photographs(job: ValidationJob, photos: ImageStore) -> None:
    network = job.student.build()
    expected = []
    for i in range(len(photos)):
        lr = torch.tensor(photos.lr(i)).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            expected.append(psnr_y(to_uint8(network(lr)[0]), np.array(photos.hr(i)), border=2))
    record = Validation(job).run(3, arrays(network))
    assert record["validation_psnr_y"] == pytest.approx(np.mean(expected))
    assert (record["step"], record["photos"]) == (3, 2)


def test_only_the_middle_of_a_few_photographs_is_scored(job: ValidationJob, tmp_path: Path) -> None:
    many = make_store(tmp_path / "many", count=PHOTOS + 1, side=2 * (CROP + 22))
    validation = Validation(dataclasses.replace(job, images=many.folder))
    assert [tuple(lr.shape) for lr in validation._inputs] == [(1, 3, CROP, CROP)] * PHOTOS
    middle = [np.array(many.hr(i)[22 : 22 + 2 * CROP, 22 : 22 + 2 * CROP]) for i in range(len(many))]
    for truth in validation._truths:
        assert any(np.array_equal(truth, part) for part in middle)


def test_the_best_weights_are_kept_with_step_and_score_and_load_by_themselves(job: ValidationJob) -> None:
    validation = Validation(job)
    weights = arrays(job.student.build())
    assert validation.run(2, worse(weights))["best_step"] == 2
    best = validation.run(4, weights)
    assert best["best_step"] == 4
    assert validation.run(6, worse(weights))["best_psnr_y"] == best["validation_psnr_y"]
    kept = load_network(job.best)
    assert (kept.architecture, kept.scale) == (job.student.network, 2)
    for name, tensor in kept.module.state_dict().items():
        assert np.array_equal(tensor.numpy(), weights[name]), name
    metadata = read_metadata(job.best)
    assert (metadata["step"], float(metadata["validation_psnr_y"])) == ("4", best["validation_psnr_y"])


def test_the_best_of_an_earlier_attempt_is_not_forgotten(job: ValidationJob) -> None:
    weights = arrays(job.student.build())
    first = Validation(job).run(4, weights)
    later = Validation(job).run(8, worse(weights))
    assert (later["best_step"], later["best_psnr_y"]) == (4, first["validation_psnr_y"])
    assert read_metadata(job.best)["step"] == "4"


def test_a_best_of_a_step_that_is_not_scored_any_more_does_not_count(job: ValidationJob) -> None:
    weights = arrays(job.student.build())
    Validation(job).run(2, weights)
    training = dataclasses.replace(job.student.training, validate_every=3)
    seldomer = dataclasses.replace(job, student=dataclasses.replace(job.student, training=training))
    assert Validation(seldomer).run(3, worse(weights))["best_step"] == 3


def test_a_best_of_other_photographs_does_not_count(job: ValidationJob, tmp_path: Path) -> None:
    weights = arrays(job.student.build())
    Validation(job).run(4, weights)
    others = dataclasses.replace(job, images=make_store(tmp_path / "others", count=1, side=40).folder)
    assert Validation(others).run(8, worse(weights))["best_step"] == 8


def test_an_aggregator_is_scored_on_the_images_of_its_teachers(photos: ImageStore, tmp_path: Path) -> None:
    teachers = tuple(make_teacher(tmp_path, name, seed=seed) for seed, name in enumerate("ab"))
    student = dataclasses.replace(make_job(make_store(tmp_path)), network=TINY_AGGREGATOR, num_teachers=2)
    digests = digests_of(teachers)
    metadata = aggregator_metadata(TINY_AGGREGATOR, 2, digests)
    job = ValidationJob(student, photos.folder, teachers, tmp_path / "best.safetensors", metadata)
    score = Validation(job).run(1, arrays(student.build()))["validation_psnr_y"]
    expected = []
    for i in range(len(photos)):
        lr = torch.tensor(photos.lr(i)).permute(2, 0, 1)[None].float() / 255
        mean = sum(load_network(teacher.path).module(lr) for teacher in teachers) / 2
        expected.append(psnr_y(to_uint8(mean[0]), np.array(photos.hr(i)), border=2))
    # An untrained aggregator is the mean of the teachers, but for their rounding to float16.
    assert score == pytest.approx(np.mean(expected), abs=0.05)
    assert load_aggregator(job.best, digests, 2).num_teachers == 2


def test_a_validated_training_ends_bit_equal_to_one_that_was_not(job: ValidationJob) -> None:
    alone = TrainState(job.student.build(), job.student.training)
    train_alone(job.student, alone)

    student = dataclasses.replace(
        job.student, training=dataclasses.replace(job.student.training, steps=8, validate_every=3)
    )
    state = TrainState(student.build(), student.training)
    validation = Validation(job)
    steps: list[int] = []

    def validate() -> None:
        weights = {name: tensor.numpy() for name, tensor in state.result().items()}
        steps.append(validation.run(state.step, weights)["step"])

    train_alone(student, state, validate=validate)
    assert steps == [3, 6, 8]
    for name, tensor in alone.result().items():
        assert torch.equal(tensor, state.result()[name]), name


def test_where_training_goes_on_its_own_validation_is_asked_for_again(job: ValidationJob) -> None:
    student = dataclasses.replace(job.student, training=dataclasses.replace(job.student.training, validate_every=4))
    state = TrainState(student.build(), student.training)
    state.step = 4
    steps: list[int] = []
    train_alone(student, state, validate=lambda: steps.append(state.step))
    assert steps == [4, 8]


def test_what_the_teachers_make_of_the_photographs_can_be_kept_for_the_next_aggregator(
    job: ValidationJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = tuple(make_teacher(tmp_path, name, seed=seed) for seed, name in enumerate("ab"))
    student = dataclasses.replace(job.student, network=TINY_AGGREGATOR, num_teachers=2)
    job = dataclasses.replace(job, student=student, teachers=teachers)
    weights = arrays(student.build())
    score = Validation(job).score(weights)
    keeping = dataclasses.replace(job, kept=tmp_path / "kept")
    assert Validation(keeping).score(weights) == score
    # An untrained aggregator is the mean of its teachers: only others make a difference.
    other = dataclasses.replace(keeping, teachers=(*teachers[:1], make_teacher(tmp_path, "c", seed=7)))
    assert Validation(other).score(weights) != score
    assert len(list((tmp_path / "kept").iterdir())) == 2
    monkeypatch.setattr(validation, "load_networks", pytest.fail)
    assert Validation(keeping).score(weights) == score
