"""How large a tile may be: what a network needs for each pixel, and what is free."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtkd_dist.pictures.tiles import GRID, SMALLEST

LARGEST = 1024
"""Side of a tile in LR pixels: larger ones are no faster, and a progress bar would stand still."""
PROBE = 128
"""Side in LR pixels of the image that a network is measured with."""
SHARE = 0.5
"""Of the free memory that tiles may take: a network's kernels want some of their own, and others live here, too."""
UNKNOWN_BYTES = 4 << 30
"""Taken for free where the system does not tell."""

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has an error of its own; CPU allocators, cuDNN and cuBLAS only have words for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def bytes_per_pixel(network: Callable[[Tensor], Tensor], device: torch.device) -> float:
    """The most that tensors take at a time while `network` answers, for each LR pixel."""
    image = torch.zeros(1, 3, PROBE, PROBE, device=device)
    with torch.inference_mode(), _LiveBytes() as live:
        network(image)
    return live.peak / PROBE**2


class _LiveBytes(TorchDispatchMode):
    """Adds up the storages that operators make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self._now = self.peak = 0
        self._counted: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._counted:
            self._counted.add(id(storage))
            weakref.finalize(storage, self._forget, id(storage), storage.nbytes())
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)

    def _forget(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self._now -= size


def largest_tile(
    height: int, width: int, scale: int, per_pixel: float, free: float, free_on_gpu: float | None = None
) -> int:
    """The largest side of a tile that fits into memory, from :data:`SMALLEST` to :data:`LARGEST` LR pixels.

    Args:
        height, width: of the picture in LR pixels.
        per_pixel: bytes that the network needs for each LR pixel.
        free: bytes of main memory that may be used. Tiles are put together there.
        free_on_gpu: the same of the GPU that the network is on; None: it is in main memory.
    """
    for tile in range(LARGEST, SMALLEST, -GRID):
        rows = min(tile, height)
        network = per_pixel * rows * min(tile, width)
        strips = 2 * 3 * 4 * scale**2 * rows * width  # one in the making, and its samples on their way into the picture
        if (network + strips <= free) if free_on_gpu is None else (network <= free_on_gpu and strips <= free):
            return tile
    return SMALLEST


def free_bytes(device: torch.device) -> int:
    """What could be had now on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch holds and does not use is free for it alone.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [left for left in (_of_machine(), _of_container()) if left is not None]
    return min(known, default=UNKNOWN_BYTES)


def _of_machine() -> int | None:
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _of_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Control groups, version 2; files that it has only cached can be dropped."""
    try:
        limit, used = ((folder / f"memory.{name}").read_text() for name in ("max", "current"))
        cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())["inactive_file"]
        return max(0, int(limit) - int(used) + int(cached))
    except (OSError, KeyError, ValueError):  # also "max": without a limit
        return None
