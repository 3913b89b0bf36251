"""AT: the student looks where the teachers look (Zagoruyko and Komodakis, ICLR 2017; in SR as in the code of FAKD)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.methods.base import Batch, Crops, FrozenNetworks, Losses
from mtkd_dist.methods.featured import Featured


def attention_map(features: Tensor) -> Tensor:
    """(B,C,h,w) -> (B,h,w): the sum over channels of the squares, divided by its L2 norm over space + 1e-6."""
    energy = features.square().sum(1)
    return energy / (torch.linalg.vector_norm(energy, dim=(1, 2), keepdim=True) + 1e-6)


@dataclass(frozen=True)
class AttentionTransfer(Featured):
    """Response + `attention_weight * sum_taps mean_n mean|A(f_S) - A(f_n)|`, with A as in `attention_map`.

    Widths may differ, so nothing is adapted. The L1 distance is that of SR code; the original has L2. No source states
    the weight for SR: 10 is our choice.
    What travels besides the N images: one map (h,w) for each teacher and tap.
    """

    attention_weight: float = 10.0

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, Tensor]:
        """ "teachers" (B,N,3,H,W) and "attention" (B,N,taps,h,w)."""
        images, features = self.ask(crops.lr, networks)
        maps = [torch.stack([attention_map(of_tap) for of_tap in of_teacher], dim=1) for of_teacher in features]
        return {"teachers": images, "attention": torch.stack(maps, dim=1)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        features, response, parts = self.respond(student, batch)
        own = torch.stack([attention_map(of_tap) for of_tap in features], dim=1)
        maps = batch.signals["attention"]
        attention = len(self.taps) * l1_loss(own[:, None].expand_as(maps), maps)
        return Losses(response + self.attention_weight * attention, {**parts, "attention": attention})
