"""A worker of the teacher pool: cuts the samples of a slot, runs the teacher half, returns arrays.

Ray knows it as the actor class `TeacherWorker`. The class itself is plain Python and is tested without Ray.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtkd_dist.config.tree import Precision, WireDtype
from mtkd_dist.data import ImageStore, Plan, Sample
from mtkd_dist.methods import FrozenNetworks, Method
from mtkd_dist.models import digest_file, load_aggregator, load_network
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.precision import Autocast, compute_dtype
from mtkd_dist.pools.wire import Answer, Meta, NonFiniteSignal, pack, size_bytes


@dataclass(frozen=True)
class TeacherFile:
    """A teacher as a weight file. Its digest goes into manifests, so that a changed file is noticed."""

    name: str
    path: Path
    input_range: float | None
    """Range of the values that the network was trained on (1 or 255); None: what the architecture says."""


@dataclass(frozen=True)
class TeacherJob:
    """Everything a teacher worker needs; files instead of tensors, so that a restarted worker can start again."""

    method: Method
    plan: Plan
    slot_size: int
    scale: int
    images: Path
    """Folder of an `ImageStore`."""
    teachers: tuple[TeacherFile, ...]
    aggregator: Path | None
    wire: WireDtype
    pool: PoolSize
    """What this worker reserved."""
    precision: Precision = "auto"
    """Arithmetic of the networks; what they answer travels as `wire` all the same."""


def load_networks(
    teachers: tuple[TeacherFile, ...],
    aggregator: Path | None,
    scale: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> FrozenNetworks:
    """Frozen networks on `device` that compute in `dtype` and answer in float32; teachers by name, in the order given.

    Each is cast by itself: the aggregator gets what the teachers said in float32.
    Errors: ValueError for a file of the wrong scale, or an aggregator that was trained with other teachers.
    """
    return FrozenNetworks(
        {
            t.name: Autocast(load_network(t.path, scale=scale, input_range=t.input_range).module.to(device), dtype)
            for t in teachers
        },
        Autocast(load_aggregator(aggregator, digests_of(teachers), scale).to(device), dtype) if aggregator else None,
    )


def digests_of(teachers: Sequence[TeacherFile]) -> dict[str, str]:
    """Name -> SHA-256 of the file, in order: what an aggregator remembers of its teachers."""
    return {teacher.name: digest_file(teacher.path) for teacher in teachers}


def open_images(folder: Path, plan: Plan) -> ImageStore:
    """The plan's images. Errors: ValueError when the folder holds others by now."""
    store = ImageStore.open(folder)
    if store.digest != plan.dataset_digest:
        raise ValueError(
            f"{folder} holds other images than this run began with (digest {store.digest[:12]}, expected "
            f"{plan.dataset_digest[:12]}); did another run rebuild it? Give each its own images.cache"
        )
    return store


def cut_slot(store: ImageStore, samples: list[Sample], patch: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Samples -> LR (b,3,p,p) and HR (b,3,s*p,s*p) uint8."""
    pairs = [store.cut(sample, patch) for sample in samples]
    return np.stack([lr for lr, _ in pairs]), np.stack([hr for _, hr in pairs])


def describe(store: ImageStore, sample: Sample) -> str:
    """`photos/01.png at y=3 x=7 (LR pixels), mirrored, turned by 90 degrees`: where to find a sample again."""
    turns = [
        *(["mirrored"] if sample.flip else []),
        *([f"turned by {90 * sample.rotate} degrees"] * bool(sample.rotate)),
    ]
    return ", ".join([f"{store.names[sample.image]} at y={sample.y} x={sample.x} (LR pixels)", *turns])


class TeacherWorker:
    def __init__(self, job: TeacherJob) -> None:
        use_threads(job.pool.threads)
        self._job = job
        self._device = pick_device(job.pool.gpus > 0)
        self._store = open_images(job.images, job.plan)
        dtype = compute_dtype(job.precision, self._device)
        self._networks = load_networks(job.teachers, job.aggregator, job.scale, self._device, dtype)

    def ping(self) -> bool:
        """True once the networks are loaded (Ray runs it after `__init__`)."""
        return True

    def answer(self, step: int, slot: int) -> tuple[Meta, Answer]:
        """The teacher half of one slot: a small record for the link, and the arrays for a student.

        Errors: ValueError that names signal and samples where a signal is not finite; no student ever gets to see it.
        """
        began = time.perf_counter()
        job = self._job
        samples = job.plan.slots(step, job.slot_size)[slot]
        lr, hr = cut_slot(self._store, samples, job.plan.patch)
        with torch.inference_mode():
            lr_01 = torch.from_numpy(lr).to(self._device).float().div_(255)
            try:
                signals = pack(job.method.teach(lr_01, self._networks), job.wire)
            except NonFiniteSignal as error:
                raise ValueError(self._blame(error, lr_01, samples)) from error
        answer = Answer(lr=lr, hr=hr, signals=signals)
        return Meta(bytes=size_bytes(answer), busy_seconds=time.perf_counter() - began), answer

    def parts(self, step: int, slot: int) -> dict[str, Callable[[], object]]:
        """What an answer is made of, for a probe to time each by itself: "cut", each teacher's name, "aggregator"."""
        job = self._job
        samples = job.plan.slots(step, job.slot_size)[slot]
        lr = cut_slot(self._store, samples, job.plan.patch)[0]
        lr_01 = torch.from_numpy(lr).to(self._device).float().div_(255)
        parts: dict[str, Callable[[], object]] = {"cut": lambda: cut_slot(self._store, samples, job.plan.patch)}
        parts |= {name: functools.partial(teacher, lr_01) for name, teacher in self._networks.teachers.items()}
        if self._networks.aggregator is not None:
            images = self._networks.teacher_images(lr_01)
            parts["aggregator"] = functools.partial(self._networks.aggregator, images)
        return parts

    def _blame(self, error: NonFiniteSignal, lr: Tensor, samples: list[Sample]) -> str:
        """The signal, its samples, and the networks that are not finite for them already as float32."""
        teachers = self._networks.teachers
        guilty = [name for name, teacher in teachers.items() if not teacher(lr[error.rows]).isfinite().all()]
        where = "; ".join(describe(self._store, samples[row]) for row in error.rows)
        who = f"teacher {', '.join(guilty)}" if guilty else "the teachers themselves are finite there"
        return f"{error} for {where} ({who})"
