"""Pictures one can see through: the colour of what is hidden must not show, and what is opaque must stay so."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn.functional import max_pool2d


def spread_colours(colours: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Give every wholly transparent pixel the colour of the nearest pixel that can be seen.

    A network looks at colours beyond the edge of what is seen, and there files hold anything, mostly black. Colours
    multiplied by alpha would have no such edge, but dividing the answer by an alpha near 0 multiplies its errors.

    Args:
        colours: (H,W,C).
        alpha: (H,W); 0 is transparent.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colours
    nearest = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    spread: NDArray[Any] = colours[tuple(nearest)]
    return spread


class Bounds:
    """What an enlarged alpha channel may be: no less and no more than the 3x3 pixels around in LR.

    So what is opaque (transparent) all around stays exactly so, whatever the network answers.

    Args:
        lr: (B,C,h,w).
    """

    def __init__(self, lr: Tensor) -> None:
        self._most, self._least = max_pool2d(lr, 3, 1, 1), -max_pool2d(-lr, 3, 1, 1)

    def keep(self, alpha: Tensor, top: int, scale: int) -> Tensor:
        """`alpha` (B,C,rows,s*w), within. `top` and its rows are multiples of the scale."""
        rows = slice(top // scale, (top + alpha.shape[-2]) // scale)
        least, most = (
            bound[..., rows, :].repeat_interleave(scale, -1).repeat_interleave(scale, -2)
            for bound in (self._least, self._most)
        )
        return torch.minimum(torch.maximum(alpha, least), most)
