"""Frozen networks at speed: reduced precision, channels_last, and on a GPU one captured graph for each size of input.

Nothing here waits for the device: a worker queues all its teachers and the aggregator one behind the other, and looks
at the first number when the last of them is queued.
"""

from __future__ import annotations

import logging
import threading

import torch
from torch import Tensor, nn

from mtkd_dist.methods import is_listening
from mtkd_dist.models.precision import Autocast

MAX_GRAPHS = 8
"""Sizes of input of one network that are captured, each with memory of its own; further sizes run without."""
SAME = 0.02
"""A captured graph that is further than this from the network itself (images in [0,1]) holds what it should not."""

_CAPTURE = threading.Lock()
"""One capture in a process at a time: all of them run on one stream of torch's own."""

logger = logging.getLogger(__name__)


def remedy(dtype: torch.dtype) -> str:
    """What to try for an image of a network in `dtype` that is not finite, as the end of a message."""
    if dtype == torch.float32:
        return ""
    name = str(dtype).removeprefix("torch.")
    return f"; it was computed in {name}, which may be too narrow for this network: take --teacher-precision float32"


class Frozen(nn.Module):
    """A network that answers images, in float32 outside and in `dtype` inside; no gradients, eval mode.

    Args:
        name: for messages, such as "teacher rcan".
        network: (B,3,h,w) -> (B,3,s*h,s*w), or an aggregator (B,N,3,H,W) -> (B,3,H,W).
        scale: s; 1 for an aggregator.
        capture: on a GPU, sizes of input come again and again, so that it pays to capture each. For who listens to
            features it computes without: a graph that is replayed calls no hooks.
    """

    def __init__(
        self, name: str, network: nn.Module, scale: int, device: torch.device, dtype: torch.dtype, capture: bool = True
    ) -> None:
        super().__init__()
        network = network.eval().requires_grad_(False).to(device)
        # Convolutions take this order faster on GPUs and CPUs alike.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._name = name
        self._scale = scale
        self.network = Autocast(network, dtype)
        self.training = False
        self._capture = capture
        self._graphs: dict[torch.Size, _Graph | None] = {}
        self._lock = threading.Lock()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        """Errors: ValueError where the answer has another shape than (B,3,s*H,s*W)."""
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        recorded = self._capture and images.is_cuda and not is_listening(self)
        graph = self._graph(images) if recorded else None
        output: Tensor = self.network(images) if graph is None else graph(images)
        expected = (len(images), 3, images.shape[-2] * self._scale, images.shape[-1] * self._scale)
        if output.shape != expected:
            raise ValueError(f"{self._name} answers images of shape {tuple(output.shape)}, expected {expected}")
        return output

    def _graph(self, images: Tensor) -> _Graph | None:
        with self._lock:
            if images.shape not in self._graphs and len(self._graphs) < MAX_GRAPHS:
                with _CAPTURE:
                    self._graphs[images.shape] = _captured(self._name, self.network, images)
            return self._graphs.get(images.shape)


def _captured(name: str, network: nn.Module, images: Tensor) -> _Graph | None:
    """None where the network cannot be captured, or where what was captured answers something else than the network."""
    try:
        graph = _Graph(network, images)
        other = images.flip(-1)
        difference = (graph(other) - network(other)).abs().max().item()
    except RuntimeError as error:
        logger.warning("%s runs without a captured graph: %s", name, str(error).splitlines()[0])
        return None
    if not difference < SAME:
        logger.warning("%s runs without a captured graph, which answers differently (by %.3g)", name, difference)
        return None
    return graph


class _Graph:
    """All kernels of one forward pass, queued with one call. Its buffers are used by one caller at a time."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self._images = images.clone()
        self._lock = threading.Lock()
        self._free = torch.cuda.Event()
        # What is set up by the first runs (cuDNN's choice, workspaces) must not be captured.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                network(self._images)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # Another thread of the worker may copy an answer meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = network(self._images)
        self._free.record()

    def __call__(self, images: Tensor) -> Tensor:
        with self._lock:
            torch.cuda.current_stream().wait_event(self._free)
            self._images.copy_(images)
            self._graph.replay()
            output = self._output.clone()
            self._free.record()
        return output
