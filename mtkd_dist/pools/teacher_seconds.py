"""A short timing of frozen networks, by which the cost of live and of rendered teacher answers is compared."""

from __future__ import annotations

import ray
import torch
from torch import Tensor, nn

from mtkd_dist.config.tree import TeacherPrecision
from mtkd_dist.data import ImageStore
from mtkd_dist.models import aggregator_path, build_aggregator, load_aggregator
from mtkd_dist.models.precision import inference_dtype
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.evaluate import AGGREGATE
from mtkd_dist.pools.inference import Frozen
from mtkd_dist.pools.placement import Resources
from mtkd_dist.pools.probe import median_seconds
from mtkd_dist.pools.teacher_worker import TeacherFile, digests_of, load_networks
from mtkd_dist.pools.wire import unpack

BUDGET_SECONDS = 1.0
"""Of each network, after it has been warmed up."""
PLACEMENT_SECONDS = 600.0
"""So long it may take altogether, most of which is waiting for a place and loading."""


def seconds_per_pixel(
    teachers: tuple[TeacherFile, ...],
    aggregator: str | None,
    images: ImageStore,
    patch: int,
    precision: TeacherPrecision,
    resources: Resources,
) -> dict[str, float]:
    """Name of each teacher, and `AGGREGATE` -> seconds of one worker for each LR pixel, on a crop of `patch`.

    `aggregator`: its file, the text of one that is still to be trained, or None for none.
    Errors: what the worker raised; TrainingFailed where it does not end.
    """
    gpus = 1 if resources.gpus else 0
    task = ray.remote(_measure).options(num_gpus=gpus, num_cpus=0 if gpus else 1, max_retries=2)
    measured = task.remote(teachers, aggregator, images, patch, precision, gpus > 0)
    try:
        seconds: dict[str, float] = ray.get(measured, timeout=PLACEMENT_SECONDS)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(measured, force=True)
        raise TrainingFailed(
            f"the timing of the teachers did not end within {PLACEMENT_SECONDS:g} s; it wants one "
            f"{'GPU' if gpus else 'CPU'}, free are {ray.available_resources()}. Is something else using the cluster? "
            "Take --teacher-outputs live or cached to do without it"
        ) from None
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    return seconds


@torch.inference_mode()
def _measure(
    teachers: tuple[TeacherFile, ...],
    aggregator: str | None,
    images: ImageStore,
    patch: int,
    precision: TeacherPrecision,
    reserved_gpu: bool,
) -> dict[str, float]:
    use_threads(1)
    device = pick_device(reserved_gpu)
    dtype = inference_dtype(precision, device)
    networks = load_networks(teachers, None, images.scale, device, dtype)
    lr = unpack([images.lr(0)[:patch, :patch].transpose(2, 0, 1)[None]], device)

    def seconds(network: nn.Module, images: Tensor) -> float:
        # Asking for one number waits for the device.
        return median_seconds(lambda: network(images).flatten()[0].item(), BUDGET_SECONDS)

    times = {name: seconds(teacher, lr) for name, teacher in networks.teachers.items()}
    if aggregator is not None:
        given = aggregator_path(aggregator)
        network = (
            load_aggregator(given, digests_of(teachers), images.scale)
            if given
            else build_aggregator(aggregator, len(teachers), images.scale)
        )
        times[AGGREGATE] = seconds(Frozen("the aggregator", network, 1, device, dtype), networks.teacher_images(lr))
    pixels = lr.shape[-1] * lr.shape[-2]
    return {name: value / pixels for name, value in times.items()}
