"""How long a network takes for one image, as an objective that trials beside it do not disturb."""

from __future__ import annotations

import statistics
import time

import torch
from torch import Tensor, nn

from mtkd_dist.models.precision import inference_dtype
from mtkd_dist.pools.device import one_thread
from mtkd_dist.pools.inference import Frozen

LR_SIDE = 128
"""Of the image, in LR pixels; batch 1."""
FORWARDS = 5


def latency_ms(network: nn.Module, num_teachers: int, scale: int, device: torch.device) -> float:
    """Milliseconds of one forward pass for an LR image of 128x128 pixels, the median of five after one that warms up.

    The network runs as all frozen ones do. On a CPU it is the processor time of one thread, to which neighbours add
    little; on a GPU the time between two events around it, in float16.

    Args:
        num_teachers: of an aggregator, which takes their images of 128·scale pixels; 0 for a network that takes LR.
    """
    shape = (1, num_teachers, 3, LR_SIDE * scale, LR_SIDE * scale) if num_teachers else (1, 3, LR_SIDE, LR_SIDE)
    images = torch.full(shape, 0.5, device=device)
    frozen = Frozen("latency", network, 1 if num_teachers else scale, device, inference_dtype("auto", device))
    measure = _gpu_ms if device.type == "cuda" else _cpu_ms
    with one_thread():
        frozen(images)
        return statistics.median(measure(frozen, images) for _ in range(FORWARDS))


def _cpu_ms(network: nn.Module, images: Tensor) -> float:
    began = time.thread_time()
    network(images)
    return 1000 * (time.thread_time() - began)


def _gpu_ms(network: nn.Module, images: Tensor) -> float:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    network(images)
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended))
