"""Stage 2 of MTKD: the student learns from the aggregated image, by default through a wavelet loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mtkd_dist.methods.base import LATER, Batch, Crops, Losses, TeacherImages
from mtkd_dist.methods.compared import Compared


@dataclass(frozen=True)
class MTKD(Compared):
    """`d(S, A(T_1..T_N)) + l1_weight * mean|S - HR|`; in the paper d is `haar_l1_loss`, levels 1 and l1_weight 0.1.

    The aggregator is frozen here, so it runs in the teacher pool and one image travels instead of N.

    Beyond the paper, `each_teacher` adds `sum_n w_n d(S, T_n)`: w_n is a weight of each teacher's own image beside that
    of 1 of the aggregate. Empty or all 0: nothing; else the N images travel, too.
    """

    each_teacher: list[float] = field(default_factory=list, metadata=LATER)
    needs_teachers: bool = True

    def teach(self, crops: Crops, networks: TeacherImages) -> dict[str, Tensor]:
        aggregate = {"aggregate": networks.aggregate(crops.lr)}
        return aggregate | ({"teachers": networks.teacher_images(crops.lr)} if any(self.each_teacher) else {})

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        sr = student(batch.lr)
        losses = self.compare(sr, batch.signals["aggregate"], batch.hr)
        if not any(self.each_teacher):
            return losses
        images = batch.signals["teachers"].unbind(1)
        own = [w * self.distance_to(sr, image) for w, image in zip(self.each_teacher, images, strict=True) if w]
        teachers = torch.stack(own).sum()
        return Losses(losses.total + teachers, {**losses.parts, "each_teacher": teachers})
