"""Mixed precision in one place: which arithmetic a device uses, and a module that computes in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtkd_dist.config.tree import Precision


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What networks compute in: "auto" is bfloat16 on a GPU and float32 elsewhere."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


class Autocast(nn.Module):
    """A network whose forward pass runs in `dtype`, for tensors in and out of float32.

    Only the forward pass: weights keep their type, and what is made of the output, such as a loss, is float32.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.training = network.training
        self._dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, self._dtype, enabled=self._dtype != torch.float32):
            output: Tensor = self.network(images)
        return output.float()
