"""DUKD: images made of those that are there, and students that answer altered questions as unaltered ones.

"Data upcycling knowledge distillation for image super-resolution" (Zhang et al., 2023), after its code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.data import bicubic_downscale
from mtkd_dist.methods.base import Batch, Crops, FrozenNetworks, Losses, Unsuitable
from mtkd_dist.methods.invertible import OPERATIONS, augment, undo


@dataclass(frozen=True)
class DUKD:
    """Three questions for each crop, and the sum of their losses in one optimizer step:

    - the crop itself: `hr_weight * mean|S - HR| + teacher_weight * mean_n mean|S - T_n|`;
    - zoom in, a tile of LR size out of HR: `teacher_weight * mean_n mean|S - T_n|`, for there is no truth;
    - zoom out, the LR shrunk by s: `hr_weight * mean|S - LR| + teacher_weight * mean_n mean|S - T_n|`.

    Label consistency: the student, not the teachers, gets each of them inverted in colour, mirrored, turned over and
    transposed, each with probability `alter`, and its answer is put back, last operation first. (Public code puts back
    in forward order, which is another image, and takes two optimizer steps without clearing gradients.)
    Weights are those released: 5 and 1, and 0.3 for each operation.

    Which tile and which operations is a pure function of each crop (of `Batch.checks`), the same in both halves, for
    any number of workers, and after a resume. So only answers travel, N for each question; the questions are made
    twice: by the teachers of LR and HR, and by the student of the same.
    """

    hr_weight: float = 5.0
    teacher_weight: float = 1.0
    alter: float = 0.3
    needs_teachers: bool = True

    def check_patch(self, patch: int, scale: int) -> None:
        """Before anything starts, whether LR patches of `patch` x `patch` can be shrunk. Errors: Unsuitable."""
        if patch % scale:
            lower = patch - patch % scale
            raise Unsuitable(
                "patch",
                f"{patch} LR pixels cannot be shrunk {scale} times for zooming out: take "
                f"{f'{lower} or ' if lower else ''}{lower + scale}",
            )

    def teach(self, crops: Crops, networks: FrozenNetworks) -> dict[str, Tensor]:
        """ "teachers" and "zoom_in" (B,N,3,s*h,s*w), "zoom_out" (B,N,3,h,w)."""
        # Of the networks themselves: rendered files answer for the crop alone, whatever they are asked.
        teachers = networks.teachers.values()
        questions = {"teachers": crops.lr, "zoom_in": zoom_in(crops), "zoom_out": zoom_out(crops)}
        return {
            name: torch.stack([teacher(images) for teacher in teachers], dim=1) for name, images in questions.items()
        }

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        crops = Crops(batch.lr, batch.hr, batch.checks)
        # The crop and the tile are of one size: one forward pass.
        chosen = [alterations(crops, self.alter, question) for question in ("crop", "zoom in", "zoom out")]
        asked = torch.cat([augment(crops.lr, chosen[0]), augment(zoom_in(crops), chosen[1])])
        sr, inside = undo(student(asked), torch.cat(chosen[:2])).chunk(2)
        outside = undo(student(augment(zoom_out(crops), chosen[2])), chosen[2])
        parts = {
            "l1_hr": l1_loss(sr, batch.hr),
            "l1_teachers": _distance(sr, batch.signals["teachers"]),
            "l1_zoom_in": _distance(inside, batch.signals["zoom_in"]),
            "l1_lr": l1_loss(outside, batch.lr),
            "l1_zoom_out": _distance(outside, batch.signals["zoom_out"]),
        }
        truth = parts["l1_hr"] + parts["l1_lr"]
        teachers = parts["l1_teachers"] + parts["l1_zoom_in"] + parts["l1_zoom_out"]
        return Losses(self.hr_weight * truth + self.teacher_weight * teachers, parts)


def zoom_in(crops: Crops) -> Tensor:
    """(B,3,h,w): of each sample a tile of its HR, at a place that its check says."""
    height, width = crops.lr.shape[-2:]
    rows, columns = (crops.hr.shape[-2] - height + 1, crops.hr.shape[-1] - width + 1)
    tiles = []
    for hr, (y, x) in zip(crops.hr, _words(crops, "tile", 2), strict=True):
        top, left = int(y) * rows >> 64, int(x) * columns >> 64
        tiles.append(hr[:, top : top + height, left : left + width])
    return torch.stack(tiles)


def zoom_out(crops: Crops) -> Tensor:
    """(B,3,h/s,w/s) in [0,1]. Errors: ValueError where s does not divide h and w."""
    return bicubic_downscale(crops.lr, crops.hr.shape[-1] // crops.lr.shape[-1]).clamp(0, 1)


def alterations(crops: Crops, probability: float, question: str) -> Tensor:
    """(B,4) bool on the device of the crops: what `augment` does to each sample, as its check says."""
    words = np.array(_words(crops, question, len(OPERATIONS)), np.uint64)
    # The upper 53 bits are what a float64 holds.
    return torch.from_numpy((words >> np.uint64(11)) * 2.0**-53 < probability).to(crops.lr.device)


def _words(crops: Crops, purpose: str, count: int) -> list[list[int]]:
    """`count` random words of 64 bits for each sample, of a sequence that belongs to its check and the purpose."""
    if len(crops.checks) != len(crops.lr):
        raise ValueError(f"{len(crops.lr)} samples come with {len(crops.checks)} checks, expected one for each")
    stream = int.from_bytes(purpose.encode(), "little")
    return [np.random.Philox(key=check, counter=stream).random_raw(count).tolist() for check in crops.checks]


def _distance(answers: Tensor, of_teachers: Tensor) -> Tensor:
    return (answers[:, None] - of_teachers).abs().mean()
