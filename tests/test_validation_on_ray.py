"""Validation beside a training, and failures of several ranks: few tests, because each starts processes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayActorError

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.models import read_metadata, read_state_dict
from mtkd_dist.pools.board import BoardActor
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.news import Update
from mtkd_dist.train.trainer import run_training
from mtkd_dist.train.validation import ValidationJob
from mtkd_dist.train.validator import MAX_WAITING, ask, validator, wait_until_idle
from tests.nets import make_job, make_store, nan_for

pytestmark = pytest.mark.usefixtures("ray_cluster")
ONE, TWO = (Layout(PoolSize(workers=count, cpus=1, gpus=0), None) for count in (1, 2))
LINK = LinkConfig(slot_size=2)


def validation_of(job: StudentJob, folder: Path) -> ValidationJob:
    return ValidationJob(
        job, make_store(folder / "held-out", count=1, side=40).folder, (), folder / "best.safetensors", {}
    )


@pytest.mark.slow
def test_validations_are_told_and_the_best_weights_handed_on_now_and_when_started_again(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path), steps=5, validate_every=2, result="best", learning_rate=1e-3)
    updates: list[Update] = []

    def start() -> dict[str, torch.Tensor]:
        updates.clear()
        return run_training(job, None, ONE, LINK, tmp_path / "run", updates.append, validation_of(job, tmp_path))

    weights = start()
    scored = {record["step"]: record["validation_psnr_y"] for u in updates for record in u.validations}
    assert list(scored) == [2, 4, 5]
    best = read_metadata(tmp_path / "best.safetensors")
    assert int(best["step"]) == max(scored, key=scored.__getitem__)
    # The last checkpoint is of step 5: nothing is left to train, and the last validation is made once more.
    again = start()
    assert [record["step"] for u in updates for record in u.validations] == [5]
    kept = read_state_dict(tmp_path / "best.safetensors")
    for name, tensor in kept.items():
        assert torch.equal(tensor, weights[name]), name
        assert torch.equal(tensor, again[name]), name


def test_a_validator_that_died_is_restarted_or_told_and_is_no_error_to_the_student(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path))
    board = BoardActor.remote()
    weights = job.build().state_dict()
    said: list[str] = []
    with validator(validation_of(job, tmp_path), board) as handle:
        assert handle is not None
        with pytest.raises(RayActorError):
            ray.get(handle.__ray_call__.options(max_task_retries=0).remote(lambda actor: os._exit(1)))
        ask(handle, board, 2, weights)
        wait_until_idle(handle, lambda: None, said.append)
        ray.kill(handle)
        ask(handle, board, 4, weights)
        wait_until_idle(handle, lambda: None, said.append)
    records = ray.get(board.read.remote(0))
    assert [record["validation"]["step"] for record in records if "validation" in record] == [2]
    (note,) = [record["note"] for record in records if "note" in record]
    assert "does not take the weights of step 4" in note
    (sentence,) = said
    assert "does not answer" in sentence


def test_a_validation_that_fails_is_told_and_the_next_one_is_tried(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path))
    board = BoardActor.remote()
    weights = job.build().state_dict()
    ruined = weights | {"tail.1.bias": torch.full((3,), torch.nan)}
    with validator(validation_of(job, tmp_path), board) as handle:
        assert handle is not None
        ask(handle, board, 2, ruined)
        ask(handle, board, 4, weights)
        wait_until_idle(handle, lambda: None, lambda text: None)
    answers = [record for record in ray.get(board.read.remote(0)) if "answered" in record]
    assert [record["answered"] for record in answers] == [2, 4]
    assert "the validation after step 2 failed: image holds NaN" in answers[0]["note"]
    assert answers[1]["validation"]["best_step"] == 4


def test_the_oldest_of_too_many_waiting_validations_is_left_out_with_a_note(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path))
    board = BoardActor.remote()
    weights = {name: tensor.numpy() for name, tensor in job.build().state_dict().items()}
    with validator(validation_of(job, tmp_path), board) as handle:
        assert handle is not None

        def ask_all(actor: Any) -> None:  # inside, because from here each call would give it the time to score
            with actor._changed:
                for step in range(1, MAX_WAITING + 3):
                    actor.ask(step, weights)

        ray.get(handle.__ray_call__.remote(ask_all))
        wait_until_idle(handle, lambda: None, lambda text: None)
    answers = {r["answered"]: r for r in ray.get(board.read.remote(0)) if "answered" in r}
    assert sorted(answers) == list(range(1, MAX_WAITING + 3))
    left_out = {step for step, record in answers.items() if "validation" not in record}
    assert left_out == {1, 2}
    assert "the validation after step 1 is left out" in answers[1]["note"]


def test_of_two_ranks_the_one_that_knows_the_photograph_is_heard(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    job = make_job(store)
    # Rank 1 has the last two samples of a step.
    sample = job.plan.samples(2)[3]
    bad = dataclasses.replace(job, method=nan_for(store, job.plan, 2, 3))
    with pytest.raises(TrainingFailed) as error:
        run_training(bad, None, TWO, LINK, tmp_path / "run", lambda update: None)
    for part in ("student rank 1", "at step 2", f"{store.names[sample.image]} at y={sample.y} x={sample.x}"):
        assert part in str(error.value)
