"""What a user would write instead of `haar_l1_loss`: the same loss (scales all 1, summed) by other means."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtkd_kernels.haar_l1_reference import haar_l1_reference

Loss = Callable[[Tensor, Tensor], Tensor]
LIBRARIES = ("ptwt", "pytorch_wavelets")


def eager(levels: int) -> Loss:
    return lambda s, t: haar_l1_reference(s, t, [1.0] * (3 * levels + 1), levels).sum()


def compiled(levels: int) -> Loss:
    torch.compiler.reset()  # otherwise a limit of recompilations turns later cases into eager ones
    return torch.compile(eager(levels), dynamic=False)


def ptwt(levels: int) -> Loss:
    """W(s) and W(t) one by one, as with any library that only has a transform."""
    library = importlib.import_module("ptwt")

    def loss(s: Tensor, t: Tensor) -> Tensor:
        of_s, of_t = (library.wavedec2(x, "haar", level=levels, mode="periodic") for x in (s, t))
        return _l1(of_s[0], of_t[0]) + sum(
            _l1(a, b)
            for level_s, level_t in zip(of_s[1:], of_t[1:], strict=True)
            for a, b in zip(level_s, level_t, strict=True)
        )

    return loss


def pytorch_wavelets(levels: int) -> Loss:
    library = importlib.import_module("pytorch_wavelets")
    transform: Any = None

    def loss(s: Tensor, t: Tensor) -> Tensor:
        nonlocal transform
        if transform is None:
            transform = library.DWTForward(J=levels, wave="haar", mode="zero").to(s.device, s.dtype)
        (low_s, details_s), (low_t, details_t) = transform(s), transform(t)
        return _l1(low_s, low_t) + sum(_l1(a, b) for a, b in zip(details_s, details_t, strict=True))

    return loss


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(dtype=torch.float32)


def missing(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Which of the libraries cannot be imported, and why."""
    reasons = {}
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {error}"
    return reasons
