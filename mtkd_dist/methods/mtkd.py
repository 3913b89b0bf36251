"""Stage 2 of MTKD: the student learns from the aggregated image through a wavelet loss."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.methods.base import Batch, Losses, TeacherImages
from mtkd_kernels import haar_l1_loss


@dataclass(frozen=True)
class MTKD:
    """`haar_l1_loss(S, A(T_1..T_N)) + l1_weight * mean|S - HR|` (MTKD, stage 2; paper: levels 1, l1_weight 0.1).

    The aggregator is frozen here, so it runs in the teacher pool and one image travels instead of N.
    """

    levels: int = 1
    l1_weight: float = 0.1
    needs_teachers: bool = True

    def teach(self, lr: Tensor, networks: TeacherImages) -> dict[str, Tensor]:
        return {"aggregate": networks.aggregate(lr)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        sr = student(batch.lr)
        wavelet = haar_l1_loss(sr, batch.signals["aggregate"], levels=self.levels)
        truth = l1_loss(sr, batch.hr)
        return Losses(wavelet + self.l1_weight * truth, {"wavelet": wavelet, "l1_hr": truth})
