"""Scoring of photographs, one at a time with every model of a run, over as many workers as there are devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.util
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtkd_dist.data import ImageStore, bicubic_upscale
from mtkd_dist.metrics import score, to_uint8
from mtkd_dist.models import load_network
from mtkd_dist.models.tiling import enlarge
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.teacher_worker import TeacherFile, load_networks

BICUBIC, MEAN, AGGREGATE, STUDENT = "bicubic", "mean of teachers", "aggregate", "student"


@dataclass(frozen=True)
class EvaluateJob:
    teachers: tuple[TeacherFile, ...]
    aggregator: Path
    student: Path
    scale: int
    crop: int = 144
    """Side in HR pixels of the detail that goes into sample grids; a multiple of every scale."""


@dataclass(frozen=True)
class Photo:
    """One photograph of an image store."""

    set: str
    images: Path
    index: int
    with_details: bool
    """Whether it also brings the details for a sample grid."""


def score_photos(
    job: EvaluateJob, photos: Sequence[Photo], resources: Resources, num_gpus: int | None
) -> Iterator[dict[str, Any]]:
    """What `EvaluateWorker.score` says of each photograph, in their order, as soon as it is there.

    One worker a GPU (at most `num_gpus`), or one a CPU core where there is no GPU.
    """
    gpus = resources.gpus if num_gpus is None else min(num_gpus, resources.gpus)
    count = max(1, min(gpus or resources.cpus, len(photos)))
    actor = ray.remote(EvaluateWorker).options(num_cpus=0 if gpus else 1, num_gpus=1 if gpus else 0)
    workers = [actor.remote(job, gpus > 0) for _ in range(count)]
    try:
        yield from ray.util.ActorPool(workers).map(lambda worker, photo: worker.score.remote(photo), list(photos))
    finally:
        for worker in workers:
            ray.kill(worker)


class EvaluateWorker:
    def __init__(self, job: EvaluateJob, reserved_gpu: bool) -> None:
        use_threads(1)
        self._job = job
        self._device = pick_device(reserved_gpu)
        self._networks = load_networks(job.teachers, job.aggregator, job.scale, self._device)
        self._student = load_network(job.student, scale=job.scale).module.to(self._device)

    @torch.inference_mode()
    def score(self, photo: Photo) -> dict[str, Any]:
        """ "set" and "image" (names), "scores" (model -> PSNR-Y in dB, SSIM-Y).

        `with_details`: also "details", label -> uint8 HWC of LR, each model and HR around the photograph's centre.
        """
        store = ImageStore.open(photo.images)
        lr, hr = store.lr(photo.index), store.hr(photo.index)
        enlarged = self._enlarge(lr)
        result: dict[str, Any] = {
            "set": photo.set,
            "image": store.names[photo.index],
            "scores": {model: tuple(score(sr, hr, self._job.scale)) for model, sr in enlarged.items()},
        }
        if photo.with_details:
            result["details"] = {"LR": self._centre(lr, 1)} | {
                label: self._centre(image, self._job.scale) for label, image in (enlarged | {"HR": hr}).items()
            }
        return result

    def _enlarge(self, lr: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
        lr_01 = torch.from_numpy(np.array(lr)).to(self._device).permute(2, 0, 1).float().div_(255)[None]
        names = [*self._networks.teachers, MEAN, AGGREGATE, STUDENT]
        images = enlarge(self._all_images, lr_01, self._job.scale)[0]
        return {BICUBIC: bicubic_upscale(lr, self._job.scale)} | {
            name: to_uint8(image.float().cpu()) for name, image in zip(names, images, strict=True)
        }

    def _all_images(self, lr: Tensor) -> Tensor:
        """(1,3,h,w) -> (1,K,3,H,W): each teacher, their mean, the aggregate, the student."""
        stack = self._networks.teacher_images(lr)
        assert self._networks.aggregator is not None
        others = [stack.mean(1), self._networks.aggregator(stack), self._student(lr)]
        return torch.cat([stack, torch.stack(others, 1)], 1)

    def _centre(self, image: NDArray[np.uint8], enlarged: int) -> NDArray[np.uint8]:
        """The same part of LR (`enlarged` 1) and of the images of its size times `enlarged`."""
        side = self._job.crop // self._job.scale
        y, x = (enlarged * max(0, (edge // enlarged - side) // 2) for edge in image.shape[:2])
        return np.ascontiguousarray(image[y : y + enlarged * side, x : x + enlarged * side])
