"""What crosses the link: numpy arrays; images as uint8, teacher signals as float16 unless asked otherwise."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtkd_dist.config.tree import WireDtype


class Answer(TypedDict):
    """One slot as it travels. b samples, scale s."""

    lr: NDArray[np.uint8]
    """(b,3,h,w)"""
    hr: NDArray[np.uint8]
    """(b,3,s*h,s*w)"""
    signals: dict[str, NDArray[np.generic]]
    """What the teacher half returned, first dimension b."""


class Meta(TypedDict):
    """What the link learns about an answer without fetching it."""

    bytes: int
    busy_seconds: float


class NonFiniteSignal(ValueError):
    """A signal holds NaN or infinity in the samples `rows`."""

    def __init__(self, signal: str, rows: list[int], dtype: WireDtype) -> None:
        super().__init__(signal, rows, dtype)
        self.signal, self.rows, self.dtype = signal, rows, dtype

    def __str__(self) -> str:
        return f"the teachers' signal {self.signal!r} is not finite as {self.dtype}"


def pack(signals: Mapping[str, Tensor], dtype: WireDtype) -> dict[str, NDArray[np.generic]]:
    """Signals -> contiguous CPU arrays of `dtype`.

    "uint8" is for images in [0,1]: clipped and rounded, an error of at most 1/510 inside the range.
    Errors: NonFiniteSignal, also where a value is beyond the 65504 of float16.
    """
    packed: dict[str, Tensor] = {}
    finite: dict[str, Tensor] = {}
    for name, signal in signals.items():
        signal = signal.to(torch.float16 if dtype == "float16" else torch.float32)
        finite[name] = _to_host(signal.isfinite().reshape(len(signal), -1).all(1))
        if dtype == "uint8":
            signal = signal.clamp(0, 1).mul(255).round().to(torch.uint8)
        packed[name] = _to_host(signal.contiguous())
    if any(signal.is_cuda for signal in signals.values()):
        # The only wait of a slot, for everything together.
        torch.cuda.current_stream().synchronize()
    for name, rows in finite.items():
        if not rows.all():
            raise NonFiniteSignal(name, (~rows).nonzero().flatten().tolist(), dtype)
    return {name: signal.numpy() for name, signal in packed.items()}


def _to_host(tensor: Tensor) -> Tensor:
    """On a GPU the copy is only queued: into pinned memory, beside what is computed."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def unpack(arrays: Sequence[NDArray[np.generic]], device: torch.device, channels_last: bool = False) -> Tensor:
    """The slots of one rank, joined along the first dimension -> float32 on `device`; uint8 becomes [0,1].

    `channels_last` orders the memory of four-dimensional arrays so. The arrays may be read-only views of the object
    store; they are copied once here.
    """
    joined = torch.from_numpy(np.concatenate(arrays))
    if device.type == "cuda":
        joined = joined.pin_memory()
    moved = joined.to(device, non_blocking=True)
    layout = torch.channels_last if channels_last and moved.ndim == 4 else torch.preserve_format
    floats = moved.to(torch.float32, memory_format=layout)
    return floats.div_(255) if moved.dtype == torch.uint8 else floats


def size_bytes(answer: Answer) -> int:
    return answer["lr"].nbytes + answer["hr"].nbytes + sum(a.nbytes for a in answer["signals"].values())


def sample_bytes(patch: int, scale: int, values: int, dtype: WireDtype) -> int:
    """Bytes of one sample as it travels: LR of `patch` x `patch` and HR as uint8, `values` numbers of signals."""
    lr = 3 * patch**2
    return lr + lr * scale**2 + values * {"uint8": 1, "float16": 2, "float32": 4}[dtype]


def checks_of(lr: NDArray[np.uint8]) -> tuple[int, ...]:
    """(b,3,h,w) uint8 -> CRC-32 of each sample; see `Batch.checks`."""
    return tuple(zlib.crc32(np.ascontiguousarray(image).data) for image in lr)
