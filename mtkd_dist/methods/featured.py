"""What the methods that compare features share: where features are tapped, and the response part of their loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.methods.base import Batch, FrozenNetworks, Unsuitable
from mtkd_dist.methods.feature_maps import TapError
from mtkd_dist.methods.taps import LEVELS, check_taps, features_of

_SOME = ", ".join(LEVELS)


@dataclass(frozen=True)
class Featured:
    """`hr_weight * mean|S - HR| + teacher_weight * mean_n mean|S - T_n|`, to which a method adds its own term.

    `taps` are the student's and `teacher_taps` those of every teacher, compared in pairs; empty: the same as `taps`.
    See `mtkd_dist.methods.taps` for their names. The wire must not be uint8, which is for images.
    """

    taps: list[str] = field(default_factory=lambda: list(LEVELS))
    teacher_taps: list[str] = field(default_factory=list)
    hr_weight: float = 1.0
    teacher_weight: float = 1.0
    needs_teachers: bool = True

    def check(self, student: nn.Module, teachers: Mapping[str, nn.Module], patch: int) -> None:
        """Before anything starts: whether all taps exist and give maps of `patch` x `patch` LR pixels.

        Errors: Unsuitable, with what would work.
        """
        if not teachers:
            raise Unsuitable("teachers", "none are given, with whose features to compare: give one")
        if not self.taps:
            raise Unsuitable("taps", f"none are given, so that nothing is compared: give some, such as {_SOME}")
        if len(self._of_teachers()) != len(self.taps):
            raise Unsuitable(
                "teacher_taps",
                f"{len(self.teacher_taps)} ({', '.join(self.teacher_taps)}) are to be compared in pairs with "
                f"{len(self.taps)} of the student ({', '.join(self.taps)}): give as many of both, or none here where "
                "all networks have the same",
            )
        check_named("taps", "the student", student, self.taps, patch)
        for name, teacher in teachers.items():
            if self.teacher_taps:
                check_named("teacher_taps", f"teacher {name}", teacher, self.teacher_taps, patch)
            else:
                check_named("taps", f"teacher {name}, as there are no teacher_taps", teacher, self.taps, patch)

    def ask(self, lr: Tensor, networks: FrozenNetworks) -> tuple[Tensor, list[list[Tensor]]]:
        """Images (B,N,3,H,W), and of each teacher the features (B,C,h,w) of each tap."""
        answers = [features_of(teacher, lr, self._of_teachers()) for teacher in networks.teachers.values()]
        images = torch.stack([image for image, _ in answers], dim=1)
        return images, [[features[tap] for tap in self._of_teachers()] for _, features in answers]

    def respond(self, student: nn.Module, batch: Batch) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        """The student's features of each tap, the response part of the loss, and its parts."""
        sr, features = features_of(student, batch.lr, self.taps)
        truth = l1_loss(sr, batch.hr)
        teachers = (sr[:, None] - batch.signals["teachers"]).abs().mean()
        total = self.hr_weight * truth + self.teacher_weight * teachers
        return [features[tap] for tap in self.taps], total, {"l1_hr": truth, "l1_teachers": teachers}

    def _of_teachers(self) -> list[str]:
        return self.teacher_taps or self.taps


def check_named(
    setting: str, who: str, network: nn.Module, taps: list[str], patch: int
) -> dict[str, tuple[int, int, int]]:
    """`check_taps`, whose errors are Unsuitable: in this setting, of `who`."""
    try:
        return check_taps(network, taps, (patch, patch))
    except TapError as error:
        raise Unsuitable(setting, f"{who}: {error}") from None
