"""FAKD: pixels that are alike for the teachers shall be alike for the student (He et al., ICIP 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mtkd_dist.methods.base import Batch, Crops, FrozenNetworks, Losses
from mtkd_dist.methods.featured import Featured

BLOCK_ENTRIES = 1 << 22
"""So many entries of the affinity are held at a time: 16 MiB as float32."""


def normalised(features: Tensor) -> Tensor:
    """(B,C,h,w), each pixel's channels divided by their L2 norm + 1e-8."""
    return features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + 1e-8)


def affinity_l1(student: Tensor, teacher: Tensor, block_entries: int = BLOCK_ENTRIES) -> Tensor:
    """`mean|F_S^T F_S - F_T^T F_T|` over (B,hw,hw), of features that are flat: F is (C,hw).

    The affinities are made and compared by blocks of rows, so that of their (hw)^2 entries no more than `block_entries`
    (and a row of each image) exist at a time, and nothing of them is kept for the backward pass: the gradient with
    respect to F_S is known block by block, too.

    Args:
        student: (B,C,h,w), normalised.
        teacher: (B,C',h,w), normalised; it gets no gradient.

    Errors: ValueError where batch or size differ.
    """
    if student.shape[0] != teacher.shape[0] or student.shape[-2:] != teacher.shape[-2:]:
        raise ValueError(
            f"features of {tuple(student.shape)} and {tuple(teacher.shape)} have no affinities to compare: expected "
            "the same batch and the same height and width"
        )
    loss: Tensor = _AffinityL1.apply(student.flatten(2), teacher.detach().flatten(2), block_entries)
    return loss


class _AffinityL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, block_entries: int) -> Tensor:
        batch, _, pixels = student.shape
        rows = max(1, block_entries // (batch * pixels))
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(student) if wants_gradient else None
        sums = []
        for start in range(0, pixels, rows):
            part = slice(start, start + rows)
            difference = student[:, :, part].mT @ student
            difference.baddbmm_(teacher[:, :, part].mT, teacher, alpha=-1)
            sums.append(torch.linalg.vector_norm(difference, ord=1))
            if gradient is not None:
                # d|A_S - A_T| / dF_S = F_S (D + D^T) with D the signs, which are as symmetric as the affinities.
                gradient[:, :, part] = student @ difference.sign_().mT
        entries = batch * pixels**2
        if gradient is not None:
            ctx.save_for_backward(gradient.mul_(2 / entries))
        return torch.stack(sums).sum() / entries

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None


@dataclass(frozen=True)
class FeatureAffinity(Featured):
    """Response + `affinity_weight * sum_taps mean_n mean|G_S - G_n|`, with `G = F^T F` of `normalised` features.

    Weights are those of FAKD's code: 0.5, 0.5 and 10, on three levels. Widths may differ, so nothing is adapted.
    What travels besides the N images are normalised features, C*h*w numbers for each teacher and tap. The half of a
    symmetric affinity has hw(hw+1)/2, which is less only for patches of side below about sqrt(2C): 11 pixels at C = 64,
    22 at C = 256.
    """

    hr_weight: float = 0.5
    teacher_weight: float = 0.5
    affinity_weight: float = 10.0

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, Tensor]:
        """ "teachers" (B,N,3,H,W) and, of teacher n and tap k, "features_n_k" (B,C,h,w): widths differ."""
        images, features = self.ask(crops.lr, networks)
        named = {
            f"features_{n}_{k}": normalised(of_tap)
            for n, of_teacher in enumerate(features)
            for k, of_tap in enumerate(of_teacher)
        }
        return {"teachers": images, **named}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        features, response, parts = self.respond(student, batch)
        own = [normalised(of_tap) for of_tap in features]
        teachers = batch.signals["teachers"].shape[1]
        terms = [
            affinity_l1(of_tap, batch.signals[f"features_{n}_{k}"])
            for n in range(teachers)
            for k, of_tap in enumerate(own)
        ]
        affinity = torch.stack(terms).sum() / teachers
        return Losses(response + self.affinity_weight * affinity, {**parts, "affinity": affinity})
