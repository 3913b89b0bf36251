from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mtkd_dist.methods import MTKD, Aggregation, Crops, FrozenNetworks
from mtkd_dist.models import digest_file, load_network
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker
from tests.nets import make_aggregator, make_store, make_teacher_job


@pytest.fixture
def job(tmp_path: Path) -> TeacherJob:
    return make_teacher_job(tmp_path, ("a", "b"))


def test_an_answer_holds_the_samples_of_its_slot_and_what_each_teacher_makes_of_them(job: TeacherJob) -> None:
    meta, answer = TeacherWorker(job).answer(step=3, slot=1)
    assert answer["lr"].shape == (2, 3, 8, 8)
    assert answer["hr"].shape == (2, 3, 16, 16)
    lr = torch.from_numpy(answer["lr"]).float() / 255
    for i, teacher in enumerate(job.teachers):
        with torch.no_grad():
            expected = load_network(teacher.path).module(lr)
        np.testing.assert_allclose(answer["signals"]["teachers"][:, i], expected.numpy(), atol=1e-5)
    assert meta["bytes"] == sum(a.nbytes for a in [answer["lr"], answer["hr"], answer["signals"]["teachers"]])
    assert meta["busy_seconds"] > 0


def test_the_same_key_gives_the_same_answer_on_every_worker(job: TeacherJob) -> None:
    one, two = (TeacherWorker(job).answer(step=5, slot=0)[1] for _ in range(2))
    np.testing.assert_array_equal(one["hr"], two["hr"])
    np.testing.assert_array_equal(one["signals"]["teachers"], two["signals"]["teachers"])


def test_the_slots_of_a_step_are_its_samples_in_order(job: TeacherJob) -> None:
    worker = TeacherWorker(job)
    store = make_store(job.images.parent)
    samples = job.plan.samples(2)
    crops = np.concatenate([worker.answer(2, slot)[1]["lr"] for slot in (0, 1)])
    for sample, crop in zip(samples, crops, strict=True):
        np.testing.assert_array_equal(store.cut(sample, 8)[0], crop)


def test_a_signal_that_is_not_finite_names_teacher_photograph_and_place(job: TeacherJob) -> None:
    worker = TeacherWorker(job)
    with torch.no_grad():
        next(worker.networks.teachers["b"].parameters()).fill_(float("nan"))
    sample = job.plan.slots(3, 2)[1][0]
    name = make_store(job.images.parent).names[sample.image]
    with pytest.raises(ValueError, match=r"'teachers' is not finite") as error:
        worker.answer(step=3, slot=1)
    assert f"{name} at y={sample.y} x={sample.x} (LR pixels)" in str(error.value)
    assert str(error.value).endswith("(teacher b)")


def test_a_signal_that_is_not_finite_in_half_precision_names_the_remedy(job: TeacherJob) -> None:
    worker = TeacherWorker(dataclasses.replace(job, precision="float16"))
    with torch.no_grad():
        next(worker.networks.teachers["b"].parameters()).fill_(float("inf"))
    said = r"\(teacher b\); it was computed in float16, .*--teacher-precision float32$"
    with pytest.raises(ValueError, match=said):
        worker.answer(step=3, slot=1)


def test_frozen_networks_compute_as_told_and_answer_in_the_type_of_the_wire(job: TeacherJob) -> None:
    exact, rounded = (
        TeacherWorker(dataclasses.replace(job, precision=precision)).answer(step=0, slot=0)[1]["signals"]["teachers"]
        for precision in ("float32", "bfloat16")
    )
    assert exact.dtype == rounded.dtype == np.float32
    assert not np.array_equal(exact, rounded)
    np.testing.assert_allclose(exact, rounded, atol=0.01)


def test_teachers_have_no_gradients(job: TeacherJob) -> None:
    worker = TeacherWorker(job)
    networks = worker.networks.teachers.values()
    assert not any(p.requires_grad for network in networks for p in network.parameters())
    assert not any(network.training for network in networks)


def test_a_worker_that_starts_later_refuses_a_file_that_is_another_by_now(job: TeacherJob) -> None:
    one, other = job.teachers
    expected, found = digest_file(one.path), digest_file(other.path)
    job = dataclasses.replace(job, teachers=(dataclasses.replace(one, digest=expected), other))
    TeacherWorker(job)
    one.path.write_bytes(other.path.read_bytes())
    said = rf"a\.safetensors is not the file .*SHA-256 {found[:12]}, expected {expected[:12]}\); put that one back"
    with pytest.raises(ValueError, match=said):
        TeacherWorker(job)


def test_a_worker_that_starts_later_refuses_another_aggregator(job: TeacherJob) -> None:
    path = make_aggregator(job.images.parent, job.teachers)
    job = dataclasses.replace(job, method=MTKD(), aggregator=path, aggregator_digest=digest_file(path))
    TeacherWorker(job)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"aggregator\.safetensors is not the file that this run began with"):
        TeacherWorker(job)


def test_a_signal_of_another_shape_than_before_names_both_and_the_photographs(job: TeacherJob) -> None:
    worker = TeacherWorker(job)
    worker.answer(step=0, slot=0)
    worker.networks.teachers["a"] = worker.networks.teachers["b"] = torch.nn.Identity()
    sample = job.plan.slots(1, 2)[0][0]
    expected = r"'teachers' has the shape \(2, 2, 3, 8, 8\), expected \(2, 2, 3, 16, 16\), for .*y=%d x=%d"
    with pytest.raises(ValueError, match=expected % (sample.y, sample.x)):
        worker.answer(step=1, slot=0)


def test_a_signal_must_have_a_row_for_each_sample(job: TeacherJob) -> None:
    worker = TeacherWorker(dataclasses.replace(job, method=_OneRowTooFew()))
    with pytest.raises(ValueError, match=r"has the shape \(1, .*expected \(2, "):
        worker.answer(step=0, slot=0)


class _OneRowTooFew(Aggregation):
    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, torch.Tensor]:
        return {name: signal[1:] for name, signal in super().teach(crops, networks).items()}
