"""What a distillation method is: a teacher half that runs in the teacher pool and a student half that is the loss.

A method is a small frozen dataclass of settings. It holds no network, so the same object travels to both pools.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

LATER: Mapping[str, bool] = {"later": True}
"""Metadata of a setting that a method got after trainings with it were already under way; see `settings_of`."""


class TeacherImages(Protocol):
    """What a method asks whose teachers' answers are images: networks can tell, and so can rendered files."""

    def teacher_images(self, lr: Tensor) -> Tensor:
        """(B,3,h,w) -> (B,N,3,H,W), the images of all N teachers in their order."""
        ...

    def aggregate(self, lr: Tensor) -> Tensor:
        """(B,3,h,w) -> (B,3,H,W), the images of all teachers turned into one. Errors: ValueError without aggregator."""
        ...


@dataclass(frozen=True)
class FrozenNetworks:
    """What a teacher worker holds. All in eval mode and without gradients; images in [0,1]."""

    teachers: dict[str, nn.Module] = field(default_factory=dict)
    """Name -> (B,3,h,w) -> (B,3,s*h,s*w). The order is the aggregator's order of channels."""
    aggregator: nn.Module | None = None
    """(B,N,3,H,W) -> (B,3,H,W), or None while it is still to be trained."""

    def teacher_images(self, lr: Tensor) -> Tensor:
        return torch.stack([teacher(lr) for teacher in self.teachers.values()], dim=1)

    def aggregate(self, lr: Tensor) -> Tensor:
        if self.aggregator is None:
            raise ValueError("an aggregated image needs a trained aggregator; the aggregate stage makes one")
        image: Tensor = self.aggregator(self.teacher_images(lr))
        return image


class Crops(NamedTuple):
    """What both halves of a method know of its samples. Both float32; images in [0,1]."""

    lr: Tensor
    """(B,3,h,w)"""
    hr: Tensor
    """(B,3,s*h,s*w)"""
    checks: tuple[int, ...] = ()
    """As `Batch.checks`: the same for the same sample, whoever looks at it."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, on the rank's device. All float32; images in [0,1]."""

    lr: Tensor
    """(B,3,h,w)"""
    hr: Tensor
    """(B,3,s*h,s*w)"""
    signals: dict[str, Tensor]
    """What the teacher half returned, by name; first dimension B."""
    checks: tuple[int, ...] = ()
    """CRC-32 of each sample's LR as uint8, (3,h,w) in C order: what the log of a run says was really learned from."""


class Losses(NamedTuple):
    """The loss to minimise and its parts, each a scalar mean over the batch."""

    total: Tensor
    parts: dict[str, Tensor]


@runtime_checkable
class Method(Protocol):
    @property
    def needs_teachers(self) -> bool:
        """False: there is no teacher half, and all workers are students."""
        ...

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, Tensor]:
        """Teacher half, called without gradients. Samples -> named signals, first dimension B."""
        ...

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        """Student half: forward of the trained network and its loss."""
        ...


class Unsuitable(ValueError):
    """Networks or patches that a method cannot work with; the message says with what it would.

    `setting`: what is to be changed, one of the method's settings, "teachers" or "patch".
    """

    def __init__(self, setting: str, words: str) -> None:
        super().__init__(setting, words)
        self.setting, self.words = setting, words

    def __str__(self) -> str:
        return self.words


@runtime_checkable
class ChecksNetworks(Protocol):
    """What a method is, beside a `Method`, that not all networks are fit for."""

    def check(self, student: nn.Module, teachers: Mapping[str, nn.Module], patch: int) -> None:
        """Before anything starts, whether it can work with these networks on LR patches of `patch` x `patch`.

        Errors: Unsuitable.
        """
        ...


def settings_of(method: Method) -> dict[str, Any]:
    """All that a method's result depends on, as plain data.

    A setting that came `LATER` is left out while it has its default: what was trained before it was there is the same.
    """
    values = dataclasses.asdict(method)  # type: ignore[call-overload]
    if digest := getattr(method, "source_digest", None):  # of a method in the user's own file
        values["source"] = digest
    for setting in dataclasses.fields(method):  # type: ignore[arg-type]
        if setting.metadata.get("later") and values[setting.name] == _default(setting):
            del values[setting.name]
    return values


def _default(setting: dataclasses.Field[Any]) -> Any:
    factory = setting.default_factory
    return setting.default if factory is dataclasses.MISSING else factory()
