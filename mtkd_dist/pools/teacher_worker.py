"""A worker of the teacher pool: cuts the samples of a slot, runs the teacher half, returns arrays.

Ray knows it as the actor class `TeacherWorker`. The class itself is plain Python and is tested without Ray.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtkd_dist.config.tree import TeacherPrecision, WireDtype
from mtkd_dist.data import ImageStore, Plan, Sample
from mtkd_dist.methods import Crops, FrozenNetworks, Method
from mtkd_dist.models import digest_file, load_aggregator, load_network
from mtkd_dist.models.precision import fitting_dtype, inference_dtype
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.inference import Frozen, remedy
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.wire import Answer, Meta, NonFiniteSignal, checks_of, pack, size_bytes, unpack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherFile:
    """A teacher as a weight file. Its digest goes into manifests, so that a changed file is noticed."""

    name: str
    path: Path
    input_range: float | None
    """Range of the values that the network was trained on (1 or 255); None: what the architecture says."""
    digest: str | None = None
    """SHA-256 that the file must have when it is loaded; None: whatever it has."""


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
    precision: TeacherPrecision = "auto"
    """Arithmetic of the networks; what they answer travels as `wire` all the same."""
    aggregator_digest: str | None = None
    """As `TeacherFile.digest`."""


def load_networks(
    teachers: tuple[TeacherFile, ...],
    aggregator: Path | None,
    scale: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    sample: Tensor | None = None,
    capture: bool = True,
    aggregator_digest: str | None = None,
) -> FrozenNetworks:
    """Frozen networks on `device` that compute in `dtype` and answer in float32; teachers by name, in the order given.

    Each is cast by itself: the aggregator gets what the teachers said in float32. With a `sample` of LR images on the
    device, a network whose answer to it is not finite in `dtype` computes in float32, and the log says so.
    `capture`: see `Frozen`.
    Errors: ValueError for a file of the wrong scale, one that is not what its digest says, or an aggregator that was
    trained with other teachers.
    """
    for teacher in teachers:
        check_digest(teacher.path, teacher.digest)

    def frozen(teacher: TeacherFile) -> Frozen:
        network = load_network(teacher.path, scale=scale, input_range=teacher.input_range).module
        fits = _fitting(f"teacher {teacher.name}", network.to(device), sample, dtype)
        return Frozen(f"teacher {teacher.name}", network, scale, device, fits, capture)

    networks = FrozenNetworks({teacher.name: frozen(teacher) for teacher in teachers})
    if aggregator is None:
        return networks
    return add_aggregator(networks, teachers, aggregator, scale, device, dtype, sample, aggregator_digest)


def add_aggregator(
    networks: FrozenNetworks,
    teachers: tuple[TeacherFile, ...],
    aggregator: Path,
    scale: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    sample: Tensor | None = None,
    aggregator_digest: str | None = None,
) -> FrozenNetworks:
    """Networks of `teachers` that are loaded, with this aggregator; see `load_networks`."""
    check_digest(aggregator, aggregator_digest)
    network = load_aggregator(aggregator, digests_of(teachers), scale).to(device)
    images = None if sample is None else networks.teacher_images(sample)
    fits = _fitting("the aggregator", network, images, dtype)
    return FrozenNetworks(networks.teachers, Frozen("the aggregator", network, 1, device, fits))


def _fitting(name: str, network: nn.Module, images: Tensor | None, dtype: torch.dtype) -> torch.dtype:
    fits = dtype if images is None else fitting_dtype(network, images, dtype)
    if fits != dtype:
        logger.warning("%s computes in float32: its answers are not finite as %s", name, dtype)
    return fits


def check_digest(path: Path, digest: str | None) -> None:
    """Errors: ValueError where the file has another SHA-256 than `digest`, so that no run mixes two networks."""
    if digest is not None and (found := digest_file(path)) != digest:
        raise ValueError(
            f"{path} is not the file that this run began with (SHA-256 {found[:12]}, expected {digest[:12]}); put that "
            "one back and give the same command again, or begin anew with this one and another --output"
        )


def digests_of(teachers: Sequence[TeacherFile]) -> dict[str, str]:
    """Name -> SHA-256 of the file, in order: what an aggregator remembers of its teachers."""
    return {teacher.name: teacher.digest or digest_file(teacher.path) for teacher in teachers}


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


def describe_slot(images: Path, plan: Plan, slot_size: int, step: int, slot: int) -> str:
    """Where the samples of a slot come from. Errors: those of `open_images`."""
    store = open_images(images, plan)
    return "; ".join(describe(store, sample) for sample in plan.slots(step, slot_size)[slot])


class TeacherWorker:
    """Args:
    frozen: networks that are there already, of the job's teachers and perhaps its aggregator; what is missing of them
        is loaded.
    """

    def __init__(self, job: TeacherJob, frozen: FrozenNetworks | None = None) -> None:
        use_threads(job.pool.threads)
        self._job = job
        self._device = pick_device(job.pool.gpus > 0)
        self._store = open_images(job.images, job.plan)
        lr, _ = cut_slot(self._store, job.plan.slots(0, job.slot_size)[0], job.plan.patch)
        self._dtype = inference_dtype(job.precision, self._device)
        sample = torch.from_numpy(lr).to(self._device).float().div_(255)
        how = (job.scale, self._device, self._dtype, sample)
        networks = frozen or load_networks(job.teachers, None, *how)
        if job.aggregator is not None and networks.aggregator is None:
            networks = add_aggregator(networks, job.teachers, job.aggregator, *how, job.aggregator_digest)
        self.networks = networks
        if self._device.type == "cuda":
            # Made on the default stream, used on others.
            torch.cuda.synchronize(self._device)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._streams = threading.local()
        self._turn: AbstractContextManager[object] = (
            contextlib.nullcontext() if self._device.type == "cuda" else threading.Lock()
        )
        self._booking = threading.Lock()
        self._booked_until = 0.0

    def ping(self) -> str:
        """Digest of the plan, once the networks are loaded (Ray runs it after `__init__`)."""
        return self._job.plan.digest

    def answer(self, step: int, slot: int) -> tuple[Meta, Answer]:
        """The teacher half of one slot: a small record for the link, and the arrays for a student.

        May be called from two threads: on a GPU one answer is cut and copied while another one is computed.

        Errors: ValueError that names signal and samples where a signal is not finite, or of another shape than before;
        no student ever gets to see it.
        """
        with self._turn, self._stream():
            began = time.perf_counter()
            job = self._job
            samples = job.plan.slots(step, job.slot_size)[slot]
            lr, hr = cut_slot(self._store, samples, job.plan.patch)
            with torch.inference_mode():
                crops = Crops(unpack([lr], self._device), unpack([hr], self._device), checks_of(lr))
                try:
                    signals = pack(job.method.teach(crops, self.networks), job.wire)
                except NonFiniteSignal as error:
                    raise ValueError(self._blame(error, crops.lr, samples)) from error
            self._check_shapes(signals, samples)
            answer = Answer(lr=lr, hr=hr, signals=signals)
            return Meta(bytes=size_bytes(answer), busy_seconds=self._book(began)), answer

    def _stream(self) -> AbstractContextManager[object]:
        """Each thread queues on a stream of its own, so that no copy waits for what the other computes."""
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream(self._device)
        return torch.cuda.stream(self._streams.own)

    def _book(self, began: float) -> float:
        """Seconds since `began` that no other answer has booked."""
        with self._booking:
            now = time.perf_counter()
            seconds = now - max(began, self._booked_until)
            self._booked_until = now
        return seconds

    def _check_shapes(self, signals: dict[str, NDArray[np.generic]], samples: list[Sample]) -> None:
        """All patches are of one size, so are the signals of each sample."""
        for name, array in signals.items():
            expected = (len(samples), *self._shapes.setdefault(name, array.shape[1:]))
            if array.shape != expected:
                where = "; ".join(describe(self._store, sample) for sample in samples)
                raise ValueError(
                    f"the teachers' signal {name!r} has the shape {array.shape}, expected {expected}, for {where}"
                )

    def parts(self, step: int, slot: int) -> dict[str, Callable[[], object]]:
        """What an answer is made of, for a probe to time each by itself: "cut", each teacher's name, "aggregator"."""
        job = self._job
        samples = job.plan.slots(step, job.slot_size)[slot]
        lr = cut_slot(self._store, samples, job.plan.patch)[0]
        lr_01 = unpack([lr], self._device)
        parts: dict[str, Callable[[], object]] = {"cut": lambda: cut_slot(self._store, samples, job.plan.patch)}
        parts |= {name: functools.partial(teacher, lr_01) for name, teacher in self.networks.teachers.items()}
        if self.networks.aggregator is not None:
            images = self.networks.teacher_images(lr_01)
            parts["aggregator"] = functools.partial(self.networks.aggregator, images)
        return parts

    def _blame(self, error: NonFiniteSignal, lr: Tensor, samples: list[Sample]) -> str:
        """The signal, its samples, the networks that are not finite for them before they are packed, and a remedy."""
        teachers = self.networks.teachers
        guilty = [name for name, teacher in teachers.items() if not teacher(lr[error.rows]).isfinite().all()]
        where = "; ".join(describe(self._store, samples[row]) for row in error.rows)
        who = f"teacher {', '.join(guilty)}" if guilty else "the teachers themselves are finite there"
        return f"{error} for {where} ({who}){remedy(self._dtype)}"
