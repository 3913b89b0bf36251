"""What to say when a loss or gradient is not finite: which step, and which photographs of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from mtkd_dist.methods import Batch, Method
from mtkd_dist.train.students import losses_together

LISTED = 8
"""Of the offending samples, so many are named."""


class NonFiniteLoss(RuntimeError):
    """Loss or gradient became NaN or infinite. Weights and EMA are as they were before the step that the text names."""

    def __init__(self, message: str, names_samples: bool) -> None:
        # Both, because an exception is unpickled from what it was made of, and this one travels to the driver.
        super().__init__(message, names_samples)
        self.message = message
        self.names_samples = names_samples
        """False on a rank whose own samples are fine: another one knows more."""

    def __str__(self) -> str:
        return self.message


@torch.no_grad()
def losses_alone(students: Mapping[str, nn.Module], method: Method, batch: Batch) -> list[float]:
    """The loss of each sample by itself, of all students together."""
    for student in students.values():
        student.eval()

    def loss(sample: Batch) -> float:
        return losses_together({name: method.loss(student, sample) for name, student in students.items()}).total.item()

    # Compiled, a batch of one would be compiled for anew.
    with torch.compiler.set_stance("force_eager"):
        return [loss(_one(batch, row)) for row in range(len(batch.lr))]


def explain(
    step: int, values: Mapping[str, float], learning_rate: float, samples: Sequence[str], alone: Sequence[float]
) -> NonFiniteLoss:
    """`values`: what was measured of the step, by name. `samples`, `alone`: this rank's samples and their losses."""
    what = "gradient" if all(math.isfinite(v) for name, v in values.items() if name != "gradient_norm") else "loss"
    measured = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    remedy = f"lower the learning rate ({learning_rate:g}) or set clip_grad"
    bad = [f"{name}: {loss:.4g}" for name, loss in zip(samples, alone, strict=True) if not math.isfinite(loss)]
    listed = "; ".join(bad[:LISTED]) + (f"; and {len(bad) - LISTED} more" if len(bad) > LISTED else "")
    if not bad:
        top = max(zip(alone, samples, strict=True))
        found = f"each of this rank's {len(samples)} samples alone has a finite loss, at most {top[0]:.4g} ({top[1]})"
    elif len(bad) == len(samples):
        found = f"so is every sample of this rank alone, which means that the training has diverged: {listed}"
    else:
        found = f"so are {len(bad)} of this rank's {len(samples)} samples alone: {listed}"
        remedy += ", and look at what these photographs have in common"
    return NonFiniteLoss(
        f"the {what} is not finite at step {step} ({measured}); {found}. The weights are those before this step; "
        f"{remedy}",
        names_samples=bool(bad),
    )


def _one(batch: Batch, row: int) -> Batch:
    only = slice(row, row + 1)
    return Batch(batch.lr[only], batch.hr[only], {name: signal[only] for name, signal in batch.signals.items()})
