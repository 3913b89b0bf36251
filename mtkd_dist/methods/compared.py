"""What compares the student with one image that the teachers made, in MTKD and wherever only that image differs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from mtkd_dist.config.tree import Distance
from mtkd_dist.methods.base import LATER, Losses
from mtkd_kernels import haar_l1_loss

BANDS = ("LL", "LH", "HL", "HH")
"""Order of `band_weights`; the formulas are those of `mtkd_kernels.haar_dwt2`."""


@dataclass(frozen=True)
class Compared:
    """`d(S, target) + l1_weight * mean|S - HR|`.

    `distance` is d: "wavelet" (of the paper: `haar_l1_loss`), "l1" (mean|S - target|) or "charbonnier"
    (mean sqrt((S - target)^2 + eps^2), eps being `charbonnier_eps` in units of the image's range of 1).
    Of the wavelet: `levels`; `wavelet`, which may be another one than Haar; `band_weights`, empty (1 for each, as in
    the paper) or a number for each of `BANDS`, the same on every level; LL is that of the last level.
    """

    levels: int = 1
    l1_weight: float = 0.1
    wavelet: str = "haar"
    band_weights: list[float] = field(default_factory=list)
    distance: Distance = field(default="wavelet", metadata=LATER)
    charbonnier_eps: float = field(default=1e-3, metadata=LATER)

    def compare(self, sr: Tensor, target: Tensor, hr: Tensor) -> Losses:
        """All (B,3,H,W) in [0,1]. The part of `target` is called as the distance is."""
        distance = self.distance_to(sr, target)
        truth = l1_loss(sr, hr)
        return Losses(distance + self.l1_weight * truth, {self.distance: distance, "l1_hr": truth})

    def distance_to(self, sr: Tensor, target: Tensor) -> Tensor:
        """d, a scalar; both (B,3,H,W) in [0,1]."""
        if self.distance == "l1":
            return l1_loss(sr, target)
        if self.distance == "charbonnier":
            return torch.sqrt((sr - target).square() + self.charbonnier_eps**2).mean()
        return haar_l1_loss(sr, target, levels=self.levels, weights=self._weights(), wavelet=self.wavelet)

    def _weights(self) -> list[list[float] | float] | None:
        """As the kernel takes them: (LH, HL, HH) of each level, then LL."""
        if not self.band_weights:
            return None
        low, *details = self.band_weights
        return [*[details] * self.levels, low]
