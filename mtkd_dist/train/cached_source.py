"""Batches without teachers: the crops of their images are cut from what was rendered before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtkd_dist.data import ImageStore, Sample
from mtkd_dist.data.store import crop_view
from mtkd_dist.methods import Batch, Crops, Method
from mtkd_dist.pools.render import RenderedTeachers, Renderer, Rendering
from mtkd_dist.pools.teacher_worker import cut_slot, open_images
from mtkd_dist.pools.wire import checks_of, unpack
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.source import LocalSource, Share, Source

logger = logging.getLogger(__name__)


def source_of_files(job: StudentJob, share: Share, device: torch.device, tell: Callable[[str], None]) -> Source:
    """For a job that nobody answers: the rank cuts its samples itself, and what its method asks for was rendered."""
    if job.rendered is None:
        return LocalSource(share, device, job.training.channels_last)
    return CachedSource(share, job.method, job.rendered, device, job.training.channels_last, tell)


class CachedSource:
    """Cuts LR, HR and the teachers' images alike; for methods whose teacher half asks for images only.

    A crop of a rendered image is not what a teacher makes of the crop: near its edges the teacher saw what lies beyond,
    and a mirrored or rotated crop is the mirrored or rotated image.

    Args:
        tell: hears of an image that was torn and is rendered again.
    """

    def __init__(
        self,
        share: Share,
        method: Method,
        rendered: RenderedTeachers,
        device: torch.device,
        channels_last: bool = False,
        tell: Callable[[str], None] = logger.warning,
    ) -> None:
        self.share = share
        self._store: ImageStore = open_images(share.images, share.plan)
        self._method = method
        self._rendered = rendered
        self._device = device
        self._channels_last = channels_last
        self._renderer = Renderer(device, tell)

    @torch.no_grad()
    def fetch(self, step: int) -> Batch:
        samples, patch = self.share.samples(step), self.share.plan.patch
        lr, hr = cut_slot(self._store, samples, patch)
        lr_01, hr_01 = (unpack([images], self._device, self._channels_last) for images in (lr, hr))
        crops = Crops(lr_01, hr_01, checks_of(lr))
        signals = self._method.teach(crops, _RenderedCrops(self, samples))  # type: ignore[arg-type]
        return Batch(crops.lr, crops.hr, signals, crops.checks)

    def teacher_images(self, samples: Sequence[Sample]) -> Tensor:
        """(B,N,3,H,W)"""
        crops = self._cut(self._rendered.teachers, samples)
        return crops.reshape(len(samples), len(self._rendered.teachers), *crops.shape[1:])

    def aggregate(self, samples: Sequence[Sample]) -> Tensor:
        """(B,3,H,W). Errors: ValueError while there is no aggregator."""
        if self._rendered.aggregate is None:
            raise ValueError("an aggregated image needs a trained aggregator; the aggregate stage makes one")
        return self._cut([self._rendered.aggregate], samples, self._channels_last)

    def _cut(self, renderings: Sequence[Rendering], samples: Sequence[Sample], channels_last: bool = False) -> Tensor:
        """(B*N,3,H,W): of each sample, the crops of all N networks."""
        scale, patch = self._store.scale, self.share.plan.patch

        def view(rendering: Rendering, sample: Sample) -> NDArray[np.generic]:
            return crop_view(self._renderer.image(rendering, sample.image), sample, patch, scale)[None]

        # Views, which are copied once, where they are joined.
        views = [view(rendering, sample) for sample in samples for rendering in renderings]
        return unpack(views, self._device, channels_last)


class _RenderedCrops:
    """`TeacherImages` of one batch."""

    def __init__(self, source: CachedSource, samples: Sequence[Sample]) -> None:
        self._source, self._samples = source, samples

    def teacher_images(self, lr: Tensor) -> Tensor:
        return self._source.teacher_images(self._samples)

    def aggregate(self, lr: Tensor) -> Tensor:
        return self._source.aggregate(self._samples)
