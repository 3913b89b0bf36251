"""The parts at work: the wavelet loss against its reference, and a few steps of a training through a real link."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mtkd_dist.config.tree import ClusterConfig, LinkConfig, TrainingConfig
from mtkd_dist.data import Photo, Plan, build_store
from mtkd_dist.doctor.check import Check
from mtkd_dist.methods.mean import MeanOfTeachers
from mtkd_dist.models import build_network, save_network
from mtkd_dist.pools.cluster import cluster, sigterm_as_interrupt, unseen
from mtkd_dist.pools.placement import Layout, plan_layout
from mtkd_dist.pools.teacher_worker import TeacherFile, TeacherJob
from mtkd_dist.train.audit import audit
from mtkd_dist.train.consumption import read_logs
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.news import Update
from mtkd_dist.train.trainer import run_training
from mtkd_kernels import haar_l1_loss
from mtkd_kernels.haar_l1_reference import haar_l1_reference

TINY, SCALE, STEPS, SLOT = "edsr-baseline:width=8,blocks=1", 2, 4, 2
TRAINING = TrainingConfig(steps=STEPS, batch_size=4, patch=8, checkpoint_every=STEPS, validate_every=0)
TOLERANCE = 1e-4
"""Of loss and gradient in float32, as a part of the largest value: sums in another order."""
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def summed(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return haar_l1_loss(images, target, reduction="sum")


def kernel(device: torch.device, loss: Loss = summed) -> Check:
    """The wavelet loss on `device`, forward and backward, against the plain torch reference on the CPU."""
    path = "the Triton kernel" if device.type == "cuda" else "the CPU path"
    torch.manual_seed(0)
    images = torch.rand(2, 2, 3, 64, 64)
    began = time.monotonic()
    try:
        value, gradient = _value_and_gradient(loss, images.to(device))
    except Exception as error:  # a driver, a compiler or Triton itself: whatever it is, it is to be told
        return Check("kernel", "failed", f"{path} failed: {type(error).__name__}: {error}", _REINSTALL)
    expected, expected_gradient = _value_and_gradient(_reference, images)
    off = abs(value / expected - 1), float((gradient - expected_gradient).abs().max() / expected_gradient.abs().max())
    if not max(off) <= TOLERANCE:
        return Check("kernel", "failed", f"{path} is off by {off[0]:.1g} (loss), {off[1]:.1g} (gradient)", _REINSTALL)
    return Check("kernel", "ok", f"{path} equals the reference, {time.monotonic() - began:.1f} s")


_REINSTALL = (
    "torch and triton may not fit each other or the driver: install both from the same index (constraints.txt has a "
    "set that fits); until then --loss.distance l1 does without"
)


def _reference(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return haar_l1_reference(images, target, [1.0] * 4, 1).sum()


def _value_and_gradient(loss: Loss, images: torch.Tensor) -> tuple[float, torch.Tensor]:
    one = images[0].clone().requires_grad_()
    value = loss(one, images[1])
    value.backward()
    assert one.grad is not None
    return float(value.detach()), one.grad.cpu()


def training(folder: Path, address: str | None) -> Check:
    """A teacher and a student of nearly nothing, joined by a link on Ray: a few steps, and what they consumed.

    `folder`: empty; all nodes of the cluster must see it. Errors: those of a launch.
    """
    began = time.monotonic()
    losses: list[float] = []

    def update(news: Update) -> None:
        losses.extend(record["loss"] for record in news.records)

    with cluster(ClusterConfig(address=address, dashboard=False)) as resources, sigterm_as_interrupt():
        if blind := unseen([folder]):
            found = f"the node(s) {', '.join(blind)} do not see {folder.parent}"
            return Check("training", "failed", found, "give an --output on a file system that all nodes share")
        layout = plan_layout(
            resources,
            needs_teachers=True,
            slots_per_step=TRAINING.batch_size // SLOT,
            num_gpus=min(2, resources.gpus) or None,
            teacher_workers=1,
            student_workers=1,
        )
        student, teacher = _jobs(folder, layout)
        run_training(student, teacher, layout, LinkConfig(slot_size=SLOT), folder / "checkpoints", update)
    verdict = audit(read_logs(folder / "checkpoints"), None)
    if not (verdict.fine and verdict.finished and len(losses) == STEPS and all(map(math.isfinite, losses))):
        found = f"{verdict}; losses {', '.join(f'{loss:.3g}' for loss in losses)}"
        return Check("training", "failed", found, "this is a mistake of mtkd-dist or of what it is built on; report it")
    seconds = time.monotonic() - began
    return Check("training", "ok", f"{STEPS} steps through a link on Ray, no sample lost or repeated, {seconds:.0f} s")


def _jobs(folder: Path, layout: Layout) -> tuple[StudentJob, TeacherJob]:
    assert layout.teachers is not None
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "noise.png")
    store = build_store([Photo(str(folder / "noise.png"))], SCALE, folder / "images")
    weights = folder / "teacher.safetensors"
    save_network(weights, build_network(TINY, SCALE), {"network": TINY, "scale": str(SCALE)})
    plan = Plan(0, store.digest, tuple(store.lr_sizes), TRAINING.batch_size, TRAINING.patch)
    method = MeanOfTeachers()
    student = StudentJob(
        network=TINY,
        num_teachers=0,
        scale=SCALE,
        method=method,
        plan=plan,
        slot_size=SLOT,
        images=store.folder,
        training=TRAINING,
        seed=0,
        pool=layout.students,
    )
    teacher = TeacherJob(
        method=method,
        plan=plan,
        slot_size=SLOT,
        scale=SCALE,
        images=store.folder,
        teachers=(TeacherFile("noise", weights, None),),
        aggregator=None,
        wire="float16",
        pool=layout.teachers,
    )
    return student, teacher
