"""All methods: what crosses the link from real networks, and the loss and gradient that a student makes of it."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from mtkd_dist.config.tree import Config, MethodName, WireDtype
from mtkd_dist.methods import Batch, Crops, Equips, FrozenNetworks, Method
from mtkd_dist.models import build_network, load_aggregator, load_network, save_network
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherJob, TeacherWorker, digests_of
from mtkd_dist.stages.distil_method import distil_method, needs_aggregator
from mtkd_dist.train.source import LocalSource, batch_of
from tests.nets import make_aggregator, make_store, make_teacher_job, share
from tests.nets import make_job as make_student_job

STUDENT = "edsr-baseline:width=8,blocks=3"
TEACHERS = {
    "rcan": "rcan-light:groups=3,blocks=1,width=16,reduction=4",
    "swinir": "swinir-light:width=12,groups=3,layers=1,heads=2",
    "rlfn": "rlfn:width=6,blocks=3",
}
STEP = 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves")
    make_store(folder)
    for seed, (name, text) in enumerate(TEACHERS.items()):
        torch.manual_seed(seed)
        save_network(folder / f"{name}.safetensors", build_network(text, 2), {"network": text, "scale": "2"})
    make_aggregator(folder, files(folder))
    return folder


def files(folder: Path) -> tuple[TeacherFile, ...]:
    return tuple(TeacherFile(name, folder / f"{name}.safetensors", None) for name in TEACHERS)


def loss_and_gradient(method: Method, batch: Batch, teachers: dict[str, nn.Module]) -> tuple[float, Tensor]:
    """Of the same student each time, with respect to the weights that its image and all its features depend on."""
    torch.manual_seed(7)
    student = build_network(STUDENT, 2)
    network = method.equip(student, teachers, 8) if isinstance(method, Equips) else student
    loss = method.loss(network, batch).total
    loss.backward()
    gradient = student.get_parameter("head.0.weight").grad
    assert gradient is not None
    return loss.item(), gradient


@pytest.mark.parametrize("name", get_args(MethodName))
@pytest.mark.parametrize(("wire", "of_loss", "of_gradient"), [("float32", 1e-5, 1e-5), ("float16", 3e-4, 1e-2)])
def test_both_halves_across_the_link_give_the_loss_and_the_gradient_of_one_process(
    name: MethodName, wire: WireDtype, of_loss: float, of_gradient: float, folder: Path
) -> None:
    """Across: by slots of two samples, from the worker, as bytes. In one process: all samples at once, from the files.

    With float32 what is left is the order of sums, in batches of another size. With float16 a distance that is hardly
    any may turn its sign, which gradients of L1 show.
    """
    config = Config(method=name)
    method = distil_method(config)
    given = files(folder) if method.needs_teachers else ()
    aggregator = folder / "aggregator.safetensors" if needs_aggregator(config) else None
    job = dataclasses.replace(make_teacher_job(folder), method=method, teachers=given, aggregator=aggregator, wire=wire)
    there = across_the_link(job)
    here, teachers = in_one_process(job)
    assert there.signals.keys() == here.signals.keys()
    assert torch.equal(there.lr, here.lr)
    assert torch.equal(there.hr, here.hr)
    assert there.checks == here.checks
    loss, gradient = loss_and_gradient(method, there, teachers)
    expected_loss, expected_gradient = loss_and_gradient(method, here, teachers)
    assert loss == pytest.approx(expected_loss, rel=of_loss)
    assert (gradient - expected_gradient).norm() <= of_gradient * expected_gradient.norm()


def across_the_link(job: TeacherJob) -> Batch:
    worker = TeacherWorker(job)
    answers = [worker.answer(STEP, slot)[1] for slot in range(2)]
    return batch_of(pickle.loads(pickle.dumps(answers)), CPU, channels_last=False)


def in_one_process(job: TeacherJob) -> tuple[Batch, dict[str, nn.Module]]:
    teachers: dict[str, nn.Module] = {file.name: load_network(file.path).module for file in job.teachers}
    aggregator = load_aggregator(job.aggregator, digests_of(job.teachers), 2) if job.aggregator else None
    student_job = make_student_job(make_store(job.images.parent), job.method)
    batch = LocalSource(share(student_job), CPU).fetch(STEP)
    with torch.no_grad():
        crops = Crops(batch.lr, batch.hr, batch.checks)
        signals = job.method.teach(crops, FrozenNetworks(teachers, aggregator))
    return dataclasses.replace(batch, signals=signals), teachers
