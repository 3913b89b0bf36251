"""The learning rate as a function of the configuration and the step."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from mtkd_dist.config.load import ConfigError, load_config
from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.data import ImageStore
from mtkd_dist.stages.check import check
from mtkd_dist.train.checkpoints import Checkpoints, to_cpu
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.state import TrainState, learning_rate
from tests.nets import make_job, make_store, train_alone
from tests.test_training_inputs import run_of, training


@given(
    rate=st.floats(1e-6, 1.0),
    steps=st.integers(1, 60),
    halve_at=st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=5),
)
def test_halving_gives_the_very_rates_of_torchs_scheduler(rate: float, steps: int, halve_at: list[float]) -> None:
    config = TrainingConfig(steps=steps, learning_rate=rate, halve_at=halve_at)
    optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    milestones = sorted({max(1, int(share * steps)) for share in halve_at})
    scheduler = MultiStepLR(optimizer, milestones, gamma=0.5)
    for step in range(steps):
        assert learning_rate(config, step) == optimizer.param_groups[0]["lr"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no step of the optimizer is made here
            scheduler.step()


@given(rates=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6), part=st.integers(1, 9))
def test_rates_are_those_of_equal_parts_one_after_the_other(rates: list[float], part: int) -> None:
    config = TrainingConfig(steps=part * len(rates), learning_rate=7.0, halve_at=[0.5], rates=rates)
    found = [learning_rate(config, step) for step in range(config.steps)]
    assert found == [rate for rate in rates for _ in range(part)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return make_store(tmp_path_factory.mktemp("photos"))


def job_with(store: ImageStore, rates: list[float]) -> StudentJob:
    return make_job(store, steps=6, checkpoint_every=3, rates=rates)


def trained(job: StudentJob, start: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """What lay at its checkpoints."""
    state, kept = TrainState(job.build(), job.training), []  # type: ignore[var-annotated]
    if start is not None:
        state.load_state_dict(start)
    train_alone(job, state, checkpoint=lambda: kept.append(to_cpu(state.state_dict())))
    return kept


def test_a_training_that_goes_on_from_another_ones_checkpoint_takes_its_own_rates(store: ImageStore) -> None:
    whole = trained(job_with(store, [1e-2, 1e-3]))[-1]
    other = trained(job_with(store, [1e-2, 5e-2]))
    copied = trained(job_with(store, [1e-2, 1e-3]), start=other[0])[-1]
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, copied["model"][name]), name
    assert any(not torch.equal(tensor, other[-1]["model"][name]) for name, tensor in whole["model"].items())


def test_the_records_say_the_rate_of_each_step(store: ImageStore) -> None:
    job = job_with(store, [1e-2, 1e-3])
    records: list[dict[str, Any]] = []
    train_alone(job, TrainState(job.build(), job.training), post=records.extend)
    assert [record["learning_rate"] for record in records] == [1e-2] * 3 + [1e-3] * 3


def test_a_checkpoint_that_still_holds_a_scheduler_is_gone_on_from(store: ImageStore, tmp_path: Path) -> None:
    job = make_job(store, steps=6, checkpoint_every=3, halve_at=[0.5])
    middle, whole = trained(job)
    scheduler = MultiStepLR(SGD([torch.zeros(1, requires_grad=True)], lr=0.1), [3], gamma=0.5)
    Checkpoints(tmp_path).write(3, middle | {"scheduler": scheduler.state_dict()}, 1, lambda: None)
    (end,) = trained(job, Checkpoints(tmp_path).load(3, torch.device("cpu")))
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, end["model"][name]), name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--distil.rates", "1e-3", "0"], ["distil.rates", "above 0"]),
        (["--distil.rates", "1e-3", "-1"], ["distil.rates", "above 0"]),
        (["--distil.rates", "1e-3", "2e-3", "--distil.steps", "7"], ["distil.rates", "divides distil.steps (7)"]),
    ],
)
def test_rates_that_cannot_work_are_refused(flags: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(load_config(flags))
    for word in words:
        assert word in str(error.value)


def test_a_training_without_rates_has_the_inputs_that_it_always_had() -> None:
    run = run_of()
    known = {"steps", "batch_size", "patch", "learning_rate", "halve_at", "ema", "clip_grad", "precision"}
    assert training(run).inputs(run)["training"].keys() == known


def test_with_rates_weights_do_not_depend_on_what_they_replace() -> None:
    one, other = run_of(rates=[0.1, 0.2]), run_of(rates=[0.1, 0.2], learning_rate=7.0, halve_at=[])
    assert training(one).inputs(one) == training(other).inputs(other)
    changed = run_of(rates=[0.1, 0.3])
    assert training(one).inputs(one) != training(changed).inputs(changed)


def test_rates_are_a_setting_of_every_training() -> None:
    config = load_config(["--aggregate.rates", "1e-3", "2e-3"])
    assert config.aggregate == dataclasses.replace(load_config([]).aggregate, rates=[1e-3, 2e-3])
