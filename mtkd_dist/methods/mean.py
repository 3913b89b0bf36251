"""The control of MTKD: the plain average of the teachers' images in the place of the aggregated image."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from mtkd_dist.methods.base import Batch, Crops, Losses, TeacherImages
from mtkd_dist.methods.compared import Compared
from mtkd_dist.methods.teacher_weights import shares


@dataclass(frozen=True)
class MeanOfTeachers(Compared):
    """`d(S, sum_n w_n T_n) + l1_weight * mean|S - HR|`, with sum_n w_n = 1: MTKD's loss, settings and defaults.

    Only the target differs, and what it costs: there is no aggregator to train or to ask. The average is made in the
    teacher pool, so one image travels instead of N. `ResponseKD` with several teachers is another method: it takes the
    mean of the distances to each of them, not the distance to their mean.
    `teacher_weights`: see `shares`.
    """

    teacher_weights: list[float] = field(default_factory=list)
    needs_teachers: bool = True

    def teach(self, crops: Crops, networks: TeacherImages) -> dict[str, Tensor]:
        images = networks.teacher_images(crops.lr)
        weights = shares(self.teacher_weights, images)
        return {"mean": (images * weights.view(-1, 1, 1, 1)).sum(1)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        return self.compare(student(batch.lr), batch.signals["mean"], batch.hr)
