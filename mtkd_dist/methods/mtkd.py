"""Stage 2 of MTKD: the student learns from the aggregated image through a wavelet loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.methods.base import Batch, Losses, TeacherImages
from mtkd_kernels import haar_l1_loss

BANDS = ("LL", "LH", "HL", "HH")
"""Order of `band_weights`; the formulas are those of `mtkd_kernels.haar_dwt2`."""


@dataclass(frozen=True)
class MTKD:
    """`haar_l1_loss(S, A(T_1..T_N)) + l1_weight * mean|S - HR|` (MTKD, stage 2; paper: levels 1, l1_weight 0.1).

    `wavelet` may be another one than Haar. `band_weights` is empty (1 for each, as in the paper), or holds a number for
    each of `BANDS`, the same on every level; LL is that of the last level.
    The aggregator is frozen here, so it runs in the teacher pool and one image travels instead of N.
    """

    levels: int = 1
    l1_weight: float = 0.1
    wavelet: str = "haar"
    band_weights: list[float] = field(default_factory=list)
    needs_teachers: bool = True

    def teach(self, lr: Tensor, networks: TeacherImages) -> dict[str, Tensor]:
        return {"aggregate": networks.aggregate(lr)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        sr = student(batch.lr)
        wavelet = haar_l1_loss(
            sr, batch.signals["aggregate"], levels=self.levels, weights=self._weights(), wavelet=self.wavelet
        )
        truth = l1_loss(sr, batch.hr)
        return Losses(wavelet + self.l1_weight * truth, {"wavelet": wavelet, "l1_hr": truth})

    def _weights(self) -> list[list[float] | float] | None:
        """As the kernel takes them: (LH, HL, HH) of each level, then LL."""
        if not self.band_weights:
            return None
        low, *details = self.band_weights
        return [*[details] * self.levels, low]
