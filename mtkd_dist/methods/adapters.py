"""What is trained beside a student and thrown away afterwards, and what is frozen beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from mtkd_dist.methods.tails import Tail
from mtkd_dist.methods.taps import features_of


class StudentWithAdapters(nn.Module):
    """A student whose features also go on, each through an adapter of its own, into the tails of frozen teachers.

    (B,3,h,w) -> the student's own (B,3,s*h,s*w). Everything is computed in one forward pass, so that DDP, autocast and
    the like need to know of nothing; the image of tail n is what the module `crossed.n` puts out, for a loss to listen
    to (`mtkd_dist.methods.taps.listening`).

    Adapters are part of the module: optimizer, EMA, DDP and checkpoints carry them. The tails are not: no state dict
    and no list of parameters has them, copies share them, and they follow `to()`.
    Students that are shipped have neither: see `shipped`.

    Args:
        student: (B,3,h,w) -> (B,3,s*h,s*w)
        tap: of the student's features.
        width: their channels. An adapter is a 1x1 convolution from them to the width of its tail, or nothing where
            both are the same.
    """

    def __init__(self, student: nn.Module, tap: str, width: int, tails: Sequence[Tail]) -> None:
        super().__init__()
        self.student: nn.Module = student
        self.adapters = nn.ModuleList(
            nn.Identity() if tail.width == width else nn.Conv2d(width, tail.width, 1) for tail in tails
        )
        self.crossed = nn.ModuleList(nn.Identity() for _ in tails)
        self._tap = tap
        self._beside = _Beside(tails)

    @property
    def tails(self) -> Sequence[Tail]:
        return self._beside.tails

    def forward(self, lr: Tensor) -> Tensor:
        sr, features = features_of(self.student, lr, [self._tap])
        for tail, adapter, crossed in zip(self.tails, self.adapters, self.crossed, strict=True):
            crossed(tail(lr, adapter(features[self._tap])))
        return sr

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        for tail in self.tails:
            tail._apply(fn, recurse)
        return super()._apply(fn, recurse)


@runtime_checkable
class Equips(Protocol):
    """A method that trains more than the student, with parts of its teachers in the student pool."""

    def equip(self, student: nn.Module, teachers: Mapping[str, nn.Module], patch: int) -> StudentWithAdapters:
        """The network to train in the place of `student`, on LR patches of `patch` x `patch`.

        Args:
            teachers: name -> (B,3,h,w) -> (B,3,s*h,s*w), frozen, in the order of the signals.
        """
        ...


def shipped(network: nn.Module) -> nn.Module:
    """The network that a training is for: the student of a `StudentWithAdapters`, any other network itself."""
    return network.student if isinstance(network, StudentWithAdapters) else network


class _Beside:
    """Hides modules from the module that holds it; copies of it are itself."""

    def __init__(self, tails: Sequence[Tail]) -> None:
        self.tails = tuple(tails)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Beside:
        return self
