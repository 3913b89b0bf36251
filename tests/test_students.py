"""Several students that learn from one stream of batches: each ends with what it would end with alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mtkd_dist.data import ImageStore
from mtkd_dist.methods import CrossKD, Method, ResponseKD
from mtkd_dist.models import build_network, digest_file, load_network, read_metadata, save_network
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.train import alone
from mtkd_dist.train.job import StudentJob, StudentNet
from mtkd_dist.train.nonfinite import NonFiniteLoss
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.students import Students, joined_weights, replaced, weights_of_each
from mtkd_dist.train.validation import ValidationJob
from tests.nets import TINY, Answered, make_job, make_store, make_teacher, train_alone

Weights = dict[str, Tensor]
NETWORKS = {
    "student": TINY,
    "swinir": "swinir-light:width=12,groups=3,layers=1,heads=2",  # its drop-path draws
    "rlfn": "rlfn:width=6,blocks=3",
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageStore, ImageStore]:
    """To train on, and held out."""
    return make_store(tmp_path_factory.mktemp("photos")), make_store(tmp_path_factory.mktemp("held-out"), 1, side=40)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> tuple[TeacherFile, ...]:
    return (make_teacher(tmp_path_factory.mktemp("teachers"), "a", seed=5),)


@pytest.fixture
def job(stores: tuple[ImageStore, ImageStore], teachers: tuple[TeacherFile, ...]) -> StudentJob:
    """Of all three."""
    made = make_job(stores[0], ResponseKD(), steps=6, checkpoint_every=2, learning_rate=1e-3, clip_grad=0.05)
    more = tuple(StudentNet(name, network) for name, network in NETWORKS.items() if name != "student")
    return dataclasses.replace(made, tails=teachers, more=more)


def only(job: StudentJob, name: str) -> StudentJob:
    """The same training of one of the students."""
    (net,) = (net for net in job.students if net.name == name)
    return dataclasses.replace(job, network=net.network, start=net.start, more=())


def run(job: StudentJob, folder: Path, **given: Any) -> dict[str, Weights]:
    said: dict[str, Any] = {"validation": None, "validated": lambda record: None, "say": lambda note: None}
    weights = alone.train_alone(job, folder, source=Answered.by(job), **(said | given))
    return weights_of_each(weights, [net.name for net in job.students])


def assert_equal(one: dict[str, Weights], other: dict[str, Weights]) -> None:
    assert one.keys() == other.keys()
    for name, weights in one.items():
        assert weights.keys() == other[name].keys(), name
        for key, value in weights.items():
            assert torch.equal(value, other[name][key]), f"{name} {key}"


@pytest.mark.parametrize("method", [ResponseKD(), CrossKD()])
def test_each_ends_bit_equal_to_a_training_of_itself_alone(job: StudentJob, tmp_path: Path, method: Method) -> None:
    job = dataclasses.replace(job, method=method)
    apart = {name: run(only(job, name), tmp_path / name)["student"] for name in NETWORKS}
    assert_equal(run(job, tmp_path / "together"), apart)
    for name, network in NETWORKS.items():
        assert apart[name].keys() == build_network(network, 2).state_dict().keys()


def test_each_starts_from_a_file_of_its_own(job: StudentJob, tmp_path: Path) -> None:
    start = make_teacher(tmp_path, "start", seed=9).path
    more = (job.more[0], StudentNet("other", TINY, start, digest_file(start)))
    begun = dataclasses.replace(job, more=more).build()
    assert isinstance(begun, Students)
    given, random = load_network(start).module.state_dict(), job.build_shipped().state_dict()
    for key, value in given.items():
        assert torch.equal(begun.state_dict()[f"other.{key}"], value)
        assert torch.equal(begun.state_dict()[f"student.{key}"], random[f"student.{key}"])
    changed = (StudentNet("other", TINY, start, "0" * 64),)
    with pytest.raises(ValueError, match=r"start\.safetensors is not the file that this run began with"):
        dataclasses.replace(job, more=changed).build()


class Stopped(BaseException):
    pass


def test_a_training_that_goes_on_from_a_checkpoint_ends_bit_equal(job: StudentJob, tmp_path: Path) -> None:
    def stop(records: list[dict[str, Any]]) -> None:
        if records[-1]["step"] >= 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(job, tmp_path / "run", post=stop)
    assert_equal(run(job, tmp_path / "run"), run(job, tmp_path / "whole"))


def test_the_records_say_the_losses_of_each_and_their_sum(job: StudentJob, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    apart: list[dict[str, Any]] = []
    run(job, tmp_path / "together", post=records.extend)
    run(only(job, "rlfn"), tmp_path / "rlfn", post=apart.extend)
    for record, own in zip(records, apart, strict=True):
        assert record["loss"] == pytest.approx(sum(record[f"{name}/loss"] for name in NETWORKS))
        parts = {key: value for key, value in own.items() if key == "loss" or key.startswith("l1")}
        assert len(parts) == 3
        assert {key: record[f"rlfn/{key}"] for key in parts} == parts


def test_one_whose_loss_is_not_finite_stops_all_and_is_named(job: StudentJob, tmp_path: Path) -> None:
    start = make_teacher(tmp_path, "start")
    network = load_network(start.path).module
    network.get_parameter("tail.1.bias").fill_(torch.inf)
    save_network(start.path, network, {"network": TINY, "scale": "2"})
    bad = dataclasses.replace(job, more=(StudentNet("bad", TINY, start.path),))
    state = TrainState(bad.build(), bad.training)
    with pytest.raises(NonFiniteLoss, match=r"the loss is not finite at step 0 .*student/loss 0\.\d+.*bad/loss inf"):
        train_alone(bad, state, source=Answered.by(bad))
    begun = bad.build().state_dict()
    assert all(torch.equal(value, begun[key]) for key, value in state.model.state_dict().items())


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """Of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_each_in_ddp_of_its_own_they_learn_the_same(job: StudentJob, process_group: None, tmp_path: Path) -> None:
    job = dataclasses.replace(job, method=CrossKD())
    state = TrainState(job.build(), job.training)
    network = replaced(state.model, lambda one: DistributedDataParallel(one, broadcast_buffers=False))
    train_alone(job, state, network=network, source=Answered.by(job))
    assert_equal(weights_of_each(state.result(), list(NETWORKS)), run(job, tmp_path / "run"))


def validation_of(job: StudentJob, images: Path, folder: Path) -> ValidationJob:
    return ValidationJob(job, images, (), folder / "best.safetensors", {"network": job.network, "scale": "2"})


@pytest.mark.parametrize("result", ["last", "best"])
def test_each_is_scored_and_kept_at_its_best_as_if_it_were_alone(
    job: StudentJob, stores: tuple[ImageStore, ImageStore], tmp_path: Path, result: str
) -> None:
    # A rate that ruins in the second half what the first has learned.
    rates = {"rates": [1e-3, 0.5]} if result == "best" else {}
    training = dataclasses.replace(job.training, validate_every=3, result=result, **rates)
    job = dataclasses.replace(job, training=training)
    scores: dict[str, list[dict[str, Any]]] = {name: [] for name in ("together", *NETWORKS)}
    ends: dict[str, dict[str, Weights]] = {}
    for name, one in {"together": job, **{name: only(job, name) for name in NETWORKS}}.items():
        (tmp_path / name).mkdir()
        validation = validation_of(one, stores[1].folder, tmp_path / name)
        ends[name] = run(one, tmp_path / name, validation=validation, validated=scores[name].append)
    assert_equal(ends["together"], {name: ends[name]["student"] for name in NETWORKS})
    if result == "best":
        assert 3 in {scores[name][-1]["best_step"] for name in NETWORKS}
    keys = ("validation_psnr_y", "best_step", "best_psnr_y")
    for name, network in NETWORKS.items():
        prefix = "" if name == "student" else f"{name}/"
        together = [[record[prefix + key] for key in keys] for record in scores["together"]]
        assert together == [[record[key] for key in keys] for record in scores[name]]
        file = tmp_path / "together" / ("best.safetensors" if name == "student" else f"best-{name}.safetensors")
        assert load_network(file).architecture == network
        assert read_metadata(file) == read_metadata(tmp_path / name / "best.safetensors")


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][\w-]{0,5}", fullmatch=True), st.dictionaries(st.text(), st.integers()), min_size=1
    )
)
def test_weights_are_joined_and_told_apart_again(weights: dict[str, dict[str, int]]) -> None:
    assert weights_of_each(joined_weights(weights), list(weights)) == weights
