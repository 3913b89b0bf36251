"""Scoring of photographs, one at a time with every model, in this process or over a pool of workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import ray.util
import torch
from numpy.typing import NDArray
from ray.exceptions import RayTaskError
from torch import Tensor, nn

from mtkd_dist.data import ImageStore, bicubic_upscale
from mtkd_dist.metrics import (
    PerceptualMetric,
    PerceptualName,
    error_bands,
    from_uint8,
    load_perceptual,
    score,
    score_rgb,
    to_uint8,
)
from mtkd_dist.models import load_aggregator, load_network
from mtkd_dist.models.ensemble import self_ensemble
from mtkd_dist.models.spandrel_adapter import allow_torchvision_import
from mtkd_dist.models.tiling import enlarge
from mtkd_dist.pools.detail import BICUBIC, Detail, detail_of
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.photo_workers import photo_workers
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.teacher_worker import TeacherFile, check_digest, digests_of

MEAN, AGGREGATE, STUDENT = "mean of teachers", "aggregate", "student"
ENSEMBLE_MARK = "+"
"""Ends the name of a model that was asked in all flips and rotations."""

Uint8Image = NDArray[np.uint8]
Extra = Literal["rgb", "lpips", "dists"]
"""What may be measured beside PSNR-Y and SSIM-Y."""
PERCEPTUAL: tuple[PerceptualName, ...] = ("lpips", "dists")


@dataclass(frozen=True)
class Merged:
    """A model that makes one image of those of other models."""

    name: str
    teachers: tuple[TeacherFile, ...]
    aggregator: Path | None
    """The aggregator's file, or None for the mean of the teachers."""
    digest: str | None = None
    """SHA-256 that the aggregator's file must have when it is loaded; None: whatever it has."""

    def load(self, scale: int) -> nn.Module:
        """The frozen aggregator.

        Errors: ValueError where it was trained for others than `teachers` or `scale`, or is not what `digest` says.
        """
        assert self.aggregator is not None
        check_digest(self.aggregator, self.digest)
        return load_aggregator(self.aggregator, digests_of(self.teachers), scale)


@dataclass(frozen=True)
class EvaluateJob:
    """All models of one scale; bicubic, if it is wanted, comes first without being named."""

    scale: int
    models: tuple[TeacherFile | Merged, ...]
    """With names of their own; a `Merged` comes after its teachers, which are among them."""
    extra: tuple[Extra, ...] = ()
    with_ensemble: bool = False
    """Whether each model is also scored as the mean of its answers to all flips and rotations."""
    bicubic: bool = True
    """Whether bicubic is scored, too."""
    crop: int = 144
    """Side in HR pixels of the detail that is shown of a photograph; a multiple of every scale."""


class Photo(Protocol):
    """A photograph to score at the scale of one job; it travels to a worker, which reads it."""

    @property
    def set(self) -> str: ...
    @property
    def scale(self) -> int: ...
    @property
    def with_details(self) -> bool:
        """Whether it also brings a detail to look at, and the spectrum of each model's error."""
        ...

    def read(self) -> tuple[str, Uint8Image, Uint8Image]:
        """Its name, LR (h,w,3) and HR (s*h,s*w,3)."""
        ...


@dataclass(frozen=True)
class StoredPhoto:
    """One photograph of an image store."""

    set: str
    images: Path
    index: int
    scale: int
    with_details: bool

    def read(self) -> tuple[str, Uint8Image, Uint8Image]:
        store = ImageStore.open(self.images)
        return store.names[self.index], store.lr(self.index), store.hr(self.index)


class Scored(NamedTuple):
    """What the models made of one photograph."""

    set: str
    image: str
    scale: int
    scores: dict[str, dict[str, float]]
    """Model -> metric -> value, bicubic first, then the models in the order of the job."""
    bands: dict[str, dict[str, float]]
    """Model -> band -> size of its error (`mtkd_dist.metrics.error_bands`); empty where no details were asked for."""
    detail: Detail | None
    """None where none was asked for."""


def score_photos(
    jobs: Sequence[EvaluateJob],
    photos: Sequence[Photo],
    resources: Resources,
    num_gpus: int | None = None,
    workers: int | None = None,
) -> Iterator[Scored]:
    """Scores of each photograph, in their order, as soon as they are there.

    `workers` workers; None: one a GPU (at most `num_gpus`), or one a CPU core where there is no GPU. Each computes with
    one thread, so that no digit of a score depends on their number. Errors: what a worker raised.
    """
    with photo_workers(EvaluateWorker, [jobs], len(photos), resources, num_gpus, workers) as started:
        try:
            yield from ray.util.ActorPool(started).map(lambda worker, photo: worker.score.remote(photo), list(photos))
        except RayTaskError as error:
            raise error.cause from None


def score_photos_here(
    jobs: Sequence[EvaluateJob], photos: Sequence[Photo], reserved_gpu: bool = True
) -> Iterator[Scored]:
    """The same in this process, without Ray. `reserved_gpu`: whether a GPU, where there is one, is there for it."""
    worker = EvaluateWorker(jobs, reserved_gpu)
    yield from map(worker.score, photos)


def load_metrics(extra: Collection[Extra], device: torch.device) -> dict[str, PerceptualMetric]:
    """The perceptual ones of `extra`, ready to measure. Errors: PerceptualError."""
    asked = [name for name in PERCEPTUAL if name in extra]
    if asked:
        allow_torchvision_import()
    return {name: load_perceptual(name, device) for name in asked}


class _Models:
    """The models of one job, loaded."""

    def __init__(self, job: EvaluateJob, device: torch.device) -> None:
        self.job = job
        self._modules: dict[str, nn.Module] = {}  # networks and aggregators; a mean has none
        for model in job.models:
            if isinstance(model, TeacherFile):
                check_digest(model.path, model.digest)
                self._modules[model.name] = load_network(model.path, job.scale, model.input_range).module.to(device)
            elif model.aggregator is not None:
                self._modules[model.name] = model.load(job.scale).to(device)

    def __call__(self, lr: Tensor) -> Tensor:
        """(1,3,h,w) -> (1,K,3,H,W), the images of all K models in their order."""
        images: dict[str, Tensor] = {}
        for model in self.job.models:
            if isinstance(model, TeacherFile):
                images[model.name] = self._modules[model.name](lr)
            else:
                stack = torch.stack([images[teacher.name] for teacher in model.teachers], 1)
                images[model.name] = self._modules[model.name](stack) if model.aggregator else stack.mean(1)
        return torch.stack(list(images.values()), 1)


class EvaluateWorker:
    def __init__(self, jobs: Sequence[EvaluateJob], reserved_gpu: bool) -> None:
        use_threads(1)
        self._device = pick_device(reserved_gpu)
        self._models = {job.scale: _Models(job, self._device) for job in jobs}
        self._perceptual = load_metrics({name for job in jobs for name in job.extra}, self._device)

    @torch.inference_mode()
    def score(self, photo: Photo) -> Scored:
        """Errors: ImageError naming the photograph; ValueError naming it and the model that made no image of it."""
        models = self._models[photo.scale]
        job = models.job
        name, lr, hr = photo.read()
        scores: dict[str, dict[str, float]] = {}
        images: dict[str, Uint8Image] = {}
        for model, image in self._enlarge(models, lr):
            try:
                sr = to_uint8(image)
            except ValueError as error:
                raise ValueError(f"{model} on {photo.set}/{name}: {error}") from error
            scores[model] = self._measure(sr, hr, job)
            if photo.with_details:
                images[model] = sr
        bands = {model: error_bands(sr, hr, job.scale) for model, sr in images.items()}
        detail = detail_of(lr, images, hr, job.crop) if images else None
        return Scored(photo.set, name, job.scale, scores, bands, detail)

    def _enlarge(self, models: _Models, lr: Uint8Image) -> Iterator[tuple[str, Tensor]]:
        """(model, its image (3,H,W) in [0,1])."""
        job = models.job
        if job.bicubic:
            yield BICUBIC, from_uint8(bicubic_upscale(lr, job.scale))[0]
        ways: dict[str, Callable[[Tensor], Tensor]] = {"": models} if job.models else {}
        if job.models and job.with_ensemble:
            ways[ENSEMBLE_MARK] = partial(self_ensemble, models)
        for mark, network in ways.items():
            images = enlarge(network, from_uint8(lr, self._device), job.scale)[0].float().cpu()
            for model, image in zip(job.models, images, strict=True):
                yield model.name + mark, image

    def _measure(self, sr: Uint8Image, hr: Uint8Image, job: EvaluateJob) -> dict[str, float]:
        """Metric -> value."""
        values: dict[str, float] = score(sr, hr, job.scale)._asdict()
        if "rgb" in job.extra:
            values |= score_rgb(sr, hr, job.scale)._asdict()
        return values | {name: self._perceptual[name](sr, hr, job.scale) for name in PERCEPTUAL if name in job.extra}
