"""A worker of the teacher pool: cuts the samples of a slot, runs the teacher half, returns arrays.

Ray knows it as the actor class `TeacherWorker`. The class itself is plain Python and is tested without Ray.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mtkd_dist.config.tree import WireDtype
from mtkd_dist.data import ImageStore, Plan, Sample
from mtkd_dist.methods import FrozenNetworks, Method
from mtkd_dist.models import digest_file, load_aggregator, load_network
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.wire import Answer, Meta, pack, size_bytes


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


def load_networks(
    teachers: tuple[TeacherFile, ...], aggregator: Path | None, scale: int, device: torch.device
) -> FrozenNetworks:
    """Frozen networks on `device`, teachers by name in the order given.

    Errors: ValueError for a file of the wrong scale, or an aggregator that was trained with other teachers.
    """
    return FrozenNetworks(
        {t.name: load_network(t.path, scale=scale, input_range=t.input_range).module.to(device) for t in teachers},
        load_aggregator(aggregator, digests_of(teachers), scale).to(device) if aggregator else None,
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


class TeacherWorker:
    def __init__(self, job: TeacherJob) -> None:
        use_threads(job.pool.threads)
        self._job = job
        self._device = pick_device(job.pool.gpus > 0)
        self._store = open_images(job.images, job.plan)
        self._networks = load_networks(job.teachers, job.aggregator, job.scale, self._device)

    def ping(self) -> bool:
        """True once the networks are loaded (Ray runs it after `__init__`)."""
        return True

    def answer(self, step: int, slot: int) -> tuple[Meta, Answer]:
        """The teacher half of one slot: a small record for the link, and the arrays for a student."""
        began = time.perf_counter()
        job = self._job
        lr, hr = cut_slot(self._store, job.plan.slots(step, job.slot_size)[slot], job.plan.patch)
        with torch.inference_mode():
            lr_01 = torch.from_numpy(lr).to(self._device).float().div_(255)
            signals = pack(job.method.teach(lr_01, self._networks), job.wire)
        answer = Answer(lr=lr, hr=hr, signals=signals)
        return Meta(bytes=size_bytes(answer), busy_seconds=time.perf_counter() - began), answer
