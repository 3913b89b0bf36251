"""CrossKD: the layers of frozen teachers judge the student's features (after Fang et al., JVCIR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.methods.adapters import StudentWithAdapters
from mtkd_dist.methods.base import Batch, Crops, FrozenNetworks, Losses, Unsuitable
from mtkd_dist.methods.feature_maps import TapError
from mtkd_dist.methods.featured import check_named
from mtkd_dist.methods.tails import Tail
from mtkd_dist.methods.taps import core, listening


@dataclass(frozen=True)
class CrossKD:
    """`hr_weight * mean|S - HR| + cross_weight * mean_n mean|tail_n(phi_n(head(S))) - T_n|`.

    Known of "Dual cross knowledge distillation for image super-resolution", from its abstract alone: the student is
    cascaded into the frozen teacher, whose layers so judge the student's features. (The CrossKD of CVPR 2024 is about
    detection.) Unknown: where the networks are cut, what the second direction is, its weights.
    Chosen: one cut in the student (`tap`) and one in each teacher (`teacher_tap`; empty: the same), both at two thirds
    of the body; phi a 1x1 convolution where the widths differ, else nothing; the target is the teacher's own image, and
    both weights are 1; with several teachers, the mean over them; not the way from the teacher into the student.

    The tails see a crop, so the target is the teacher's answer to that very crop: teachers must be live.
    The tails compute, and pass gradients, in the student pool: each rank loads the teachers' files and calls `equip`.
    N images travel.
    """

    tap: str = "middle"
    teacher_tap: str = ""
    hr_weight: float = 1.0
    cross_weight: float = 1.0
    needs_teachers: bool = True

    def check(self, student: nn.Module, teachers: Mapping[str, nn.Module], patch: int) -> None:
        """Before anything starts: whether both cuts fit. Errors: Unsuitable, with what would."""
        self.equip(student, teachers, patch)

    def equip(self, student: nn.Module, teachers: Mapping[str, nn.Module], patch: int) -> StudentWithAdapters:
        """The network to train in the place of `student`, on LR patches of `patch` x `patch`.

        Args:
            teachers: name -> (B,3,h,w) -> (B,3,s*h,s*w), in the order of the signals; copied, and no more of each than
                its tail is kept. Not wrapped in what forbids gradients, as networks of the teacher pool are.

        Errors: as `check`.
        """
        if not teachers:
            raise Unsuitable("teachers", "none are given, through which to send the student's features: give one")
        width, _, _ = check_named("tap", "the student", student, [self.tap], patch)[self.tap]
        tap, setting = (self.teacher_tap, "teacher_tap") if self.teacher_tap else (self.tap, "tap")
        tails = []
        for name, teacher in teachers.items():
            who = f"teacher {name}" if self.teacher_tap else f"teacher {name}, as there is no teacher_tap"
            check_named(setting, who, teacher, [tap], patch)
            try:
                tails.append(Tail(teacher, tap, patch))
            except TapError as error:
                raise Unsuitable(setting, f"{who}: {error}") from None
        return StudentWithAdapters(student, self.tap, width, tails)

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, Tensor]:
        # The networks themselves: a rendered file answers for the whole photograph, and tails for the crop.
        return {"teachers": torch.stack([teacher(crops.lr) for teacher in networks.teachers.values()], dim=1)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        """`student` is one that `equip` made, perhaps wrapped."""
        images = batch.signals["teachers"]
        if not isinstance(core(student), StudentWithAdapters):
            raise TypeError(f"CrossKD trains what `equip` makes of a student, got a {type(core(student)).__name__}")
        crossed = [f"crossed.{n}" for n in range(images.shape[1])]
        with listening(student, crossed) as heard:
            sr = student(batch.lr)
        truth = l1_loss(sr, batch.hr)
        through = l1_loss(torch.stack([heard[name].to(sr.dtype) for name in crossed], dim=1), images)
        total = self.hr_weight * truth + self.cross_weight * through
        return Losses(total, {"l1_hr": truth, "l1_crossed": through})
