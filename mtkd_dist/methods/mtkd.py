"""Stage 2 of MTKD: the student learns from the aggregated image, by default through a wavelet loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from mtkd_dist.methods.base import Batch, Crops, Losses, TeacherImages
from mtkd_dist.methods.compared import Compared


@dataclass(frozen=True)
class MTKD(Compared):
    """`d(S, A(T_1..T_N)) + l1_weight * mean|S - HR|`; in the paper d is `haar_l1_loss`, levels 1 and l1_weight 0.1.

    The aggregator is frozen here, so it runs in the teacher pool and one image travels instead of N.
    """

    needs_teachers: bool = True

    def teach(self, crops: Crops, networks: TeacherImages) -> dict[str, Tensor]:
        return {"aggregate": networks.aggregate(crops.lr)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        return self.compare(student(batch.lr), batch.signals["aggregate"], batch.hr)
