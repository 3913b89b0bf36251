"""Stage 1 of MTKD: the aggregator learns to turn the images of all teachers into the truth."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.methods.base import Batch, Crops, Losses, TeacherImages


@dataclass(frozen=True)
class Aggregation:
    """`mean|A(T_1..T_N) - HR|` (MTKD, stage 1). The trained "student" is the aggregator, so all N images travel."""

    needs_teachers: bool = True

    def teach(self, crops: Crops, networks: TeacherImages) -> dict[str, Tensor]:
        return {"teachers": networks.teacher_images(crops.lr)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        loss = l1_loss(student(batch.signals["teachers"]), batch.hr)
        return Losses(loss, {"l1_hr": loss})
