"""A short timing of frozen networks, by which the cost of live and of rendered teacher answers is compared."""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
import torch
from torch import Tensor

from mtkd_dist.config.tree import Precision
from mtkd_dist.data import ImageStore
from mtkd_dist.models import aggregator_path, build_aggregator, load_aggregator
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.evaluate import AGGREGATE
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.precision import Autocast, compute_dtype
from mtkd_dist.pools.teacher_worker import TeacherFile, digests_of, load_networks
from mtkd_dist.pools.wire import unpack

CALLS = 3
"""Timed after one that is not; the fastest counts."""


def seconds_per_pixel(
    teachers: tuple[TeacherFile, ...],
    aggregator: str,
    images: ImageStore,
    patch: int,
    precision: Precision,
    resources: Resources,
) -> dict[str, float]:
    """Name of each teacher, and `AGGREGATE` -> seconds of one worker for each LR pixel, on a crop of `patch`.

    `aggregator`: its file, or the text of one that is still to be trained. Errors: what the worker raised.
    """
    gpus = 1 if resources.gpus else 0
    task = ray.remote(_measure).options(num_gpus=gpus, num_cpus=0 if gpus else 1, max_retries=2)
    try:
        seconds: dict[str, float] = ray.get(task.remote(teachers, aggregator, images, patch, precision, gpus > 0))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return seconds


@torch.inference_mode()
def _measure(
    teachers: tuple[TeacherFile, ...],
    aggregator: str,
    images: ImageStore,
    patch: int,
    precision: Precision,
    reserved_gpu: bool,
) -> dict[str, float]:
    use_threads(1)
    device = pick_device(reserved_gpu)
    dtype = compute_dtype(precision, device)
    networks = load_networks(teachers, None, images.scale, device, dtype)
    given = aggregator_path(aggregator)
    merge = Autocast(
        load_aggregator(given, digests_of(teachers), images.scale).to(device)
        if given
        else build_aggregator(aggregator, len(teachers), images.scale).to(device).eval(),
        dtype,
    )
    lr = unpack([images.lr(0)[:patch, :patch].transpose(2, 0, 1)[None]], device)
    stack = networks.teacher_images(lr)
    times = {name: _seconds(lambda teacher=teacher: teacher(lr)) for name, teacher in networks.teachers.items()}  # type: ignore[misc]
    times[AGGREGATE] = _seconds(lambda: merge(stack))
    pixels = lr.shape[-1] * lr.shape[-2]
    return {name: seconds / pixels for name, seconds in times.items()}


def _seconds(call: Callable[[], Tensor]) -> float:
    """Of the fastest call; asking for one number waits for the device."""
    times = []
    for _ in range(1 + CALLS):
        began = time.perf_counter()
        call().flatten()[0].item()
        times.append(time.perf_counter() - began)
    return min(times[1:])
