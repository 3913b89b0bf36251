"""Self-ensemble: one network asked eight times about the same image, in every mirrored and rotated position."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def self_ensemble(network: Callable[[Tensor], Tensor], lr: Tensor) -> Tensor:
    """Mean of the network's answers to the 8 flips and rotations of `lr`, each turned back (Timofte et al., CVPR 2016).

    The "+" rows of the papers. Costs eight forwards, one after the other; the answers are added up, not collected.

    Args:
        network: (B,3,h,w) -> (B,...,s*h,s*w), for both (h,w) and (w,h).
        lr: (B,3,h,w).

    Returns:
        (B,...,s*h,s*w).
    """
    total: Tensor | None = None
    for mirrored in (False, True):
        for quarters in range(4):
            answer = turn_back(network(turn(lr, mirrored, quarters)), mirrored, quarters)
            total = answer.clone() if total is None else total.add_(answer)
    assert total is not None
    return total.div_(8)


def turn(images: Tensor, mirrored: bool, quarters: int) -> Tensor:
    """(...,h,w), mirrored left to right or not, then turned by quarters of a circle: one of the 8 symmetries."""
    return (images.flip(-1) if mirrored else images).rot90(quarters, (-2, -1))


def turn_back(images: Tensor, mirrored: bool, quarters: int) -> Tensor:
    """Undoes `turn`."""
    images = images.rot90(-quarters, (-2, -1))
    return images.flip(-1) if mirrored else images
