"""Reduced and mixed precision in one place: which arithmetic a device uses, and a module that computes in it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mtkd_dist.config.tree import Precision, TeacherPrecision


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What networks compute in: "auto" is bfloat16 on a GPU and float32 elsewhere."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def inference_dtype(precision: TeacherPrecision, device: torch.device) -> torch.dtype:
    """What frozen networks compute in: "auto" is float16 on a GPU and float32 elsewhere.

    float16 and not bfloat16, which training needs for its range: the images of real networks lose less than 0.001 dB by
    the former and up to 0.009 dB by the latter (benchmarks/results/teachers.md).
    """
    if precision == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[precision]


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


def fitting_dtype(network: nn.Module, images: Tensor, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, or float32 for a network whose answer to `images` is not finite in `dtype` (float16 ends at 65504)."""
    if dtype == torch.float32:
        return dtype
    with torch.inference_mode():
        finite = Autocast(network, dtype)(images).isfinite().all().item()
    return dtype if finite else torch.float32
