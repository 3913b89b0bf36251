"""Response distillation (KD): the student learns from the truth and from what each teacher answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.functional import l1_loss

from mtkd_dist.methods.base import Batch, Crops, Losses, TeacherImages
from mtkd_dist.methods.teacher_weights import shares


@dataclass(frozen=True)
class ResponseKD:
    """`hr_weight * mean|S - HR| + teacher_weight * sum_n w_n mean|S - T_n|`, with sum_n w_n = 1.

    Both weights are 1, as in the code of DUKD and DCKD. That of FAKD has 0.5 and 0.5: the same but for a factor that
    Adam does not see; with 1, the distance to the truth counts as much as in a training without teachers.

    With several teachers it is the mean of the distances to each, which the median of their images makes smallest,
    pixel by pixel, and which hardly pulls where they disagree; the distance to their average is `MeanOfTeachers`.
    It depends on every one of the N images, so all of them travel: with one teacher one.
    `teacher_weights`: see `shares`.
    """

    hr_weight: float = 1.0
    teacher_weight: float = 1.0
    teacher_weights: list[float] = field(default_factory=list)
    needs_teachers: bool = True

    def teach(self, crops: Crops, networks: TeacherImages) -> dict[str, Tensor]:
        return {"teachers": networks.teacher_images(crops.lr)}

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        sr, images = student(batch.lr), batch.signals["teachers"]
        truth = l1_loss(sr, batch.hr)
        distances = (sr[:, None] - images).abs().mean((0, 2, 3, 4))
        teachers = (shares(self.teacher_weights, images) * distances).sum()
        total = self.hr_weight * truth + self.teacher_weight * teachers
        return Losses(total, {"l1_hr": truth, "l1_teachers": teachers})
