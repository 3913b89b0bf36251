"""Training on the truth alone: how a teacher that is given by name is made, and the method `scratch`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.methods.base import Batch, Crops, FrozenNetworks, Losses


@dataclass(frozen=True)
class Supervised:
    """`mean|S - HR|`, the loss of EDSR, RCAN and SwinIR."""

    needs_teachers: bool = False

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, Tensor]:
        return {}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        loss = l1_loss(student(batch.lr), batch.hr)
        return Losses(loss, {"l1_hr": loss})
