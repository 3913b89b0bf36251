"""Which images a method wants of its teachers and how much it sends of them, found out by asking it once."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mtkd_dist.methods.base import Crops, FrozenNetworks, Method

Asked = Literal["teachers", "aggregate"]


class NeedsNetworks(ValueError):
    """A method wants more of its teachers than images."""


def images_asked(method: Method, num_teachers: int, scale: int) -> frozenset[Asked]:
    """What the teacher half asks for: the image of every teacher, the aggregated one, both, or none.

    Errors: NeedsNetworks where it asks for anything else, such as the networks themselves.
    """
    listener = _Listener(type(method).__name__, num_teachers, scale)
    method.teach(_black_crops(16, scale), listener)  # type: ignore[arg-type]
    return frozenset(listener.asked)


def values_sent(method: Method, num_teachers: int, scale: int, patch: int) -> int:
    """Numbers that the signals of one sample consist of, an LR crop of `patch` x `patch`. Nothing is computed.

    Errors: NeedsNetworks where the teacher half asks for more than images.
    """
    listener = _Listener(type(method).__name__, num_teachers, scale)
    signals = method.teach(_black_crops(patch, scale, "meta"), listener)  # type: ignore[arg-type]
    return sum(signal.numel() for signal in signals.values())


@torch.no_grad()
def values_sent_by(method: Method, networks: FrozenNetworks, scale: int, patch: int) -> int:
    """`values_sent` of any method, found out by asking these networks on the CPU."""
    signals = method.teach(_black_crops(patch, scale), networks)
    return sum(signal.numel() for signal in signals.values())


def _black_crops(patch: int, scale: int, device: str = "cpu") -> Crops:
    lr, hr = (torch.zeros(1, 3, side, side, device=device) for side in (patch, scale * patch))
    return Crops(lr, hr, (0,))


class _Listener:
    """Answers as `TeacherImages` does, with black images."""

    def __init__(self, method: str, num_teachers: int, scale: int) -> None:
        self.asked: set[Asked] = set()
        self._method, self._num_teachers, self._scale = method, num_teachers, scale

    def teacher_images(self, lr: Tensor) -> Tensor:
        self.asked.add("teachers")
        return self._black(lr)[:, None].repeat(1, self._num_teachers, 1, 1, 1)

    def aggregate(self, lr: Tensor) -> Tensor:
        self.asked.add("aggregate")
        return self._black(lr)

    def _black(self, lr: Tensor) -> Tensor:
        batch, channels, height, width = lr.shape
        return lr.new_zeros(batch, channels, self._scale * height, self._scale * width)

    def __getattr__(self, name: str) -> Any:
        raise NeedsNetworks(
            f"{self._method} asks for the {name} themselves, and rendered files hold their images only: it needs live "
            "teachers (--teacher-outputs live)"
        )
