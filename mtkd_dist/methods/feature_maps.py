"""Features of any network as maps (B,C,h,w): convolutions put them out so, transformers in other ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LARGEST_WINDOW = 64
"""Networks pad images to multiples of at most this."""


class TapError(ValueError):
    """A tap that does not exist or whose features cannot be used; the message says which can."""


def as_map(output: Any, batch: int, lr_size: tuple[int, int], tap: str) -> Tensor:
    """What a module puts out -> (B,C,h,w) at LR size, in float32 at least; for the layouts see `layouts`.

    What a network padded at the bottom and on the right, to less than twice the size, is cut off.
    Errors: TapError for anything else.
    """
    if not isinstance(output, Tensor):
        raise TapError(f"tap {tap}: puts out a {type(output).__name__}, expected one tensor: tap a module inside it")
    found = layouts(output, batch, lr_size)
    if not found:
        raise TapError(
            f"tap {tap}: puts out {tuple(output.shape)}, which is no map of {lr_size[0]}x{lr_size[1]} LR pixels for "
            f"{batch} images: expected ({batch},C,h,w), ({batch},h,w,C) or ({batch},h*w,C), padded or not"
        )
    features = to_bchw(output, *found[0])[..., : lr_size[0], : lr_size[1]]
    return features.to(torch.promote_types(features.dtype, torch.float32))


def layouts(output: Tensor, batch: int, lr_size: tuple[int, int]) -> list[tuple[str, tuple[int, int]]]:
    """The ways to read features as a map: ("BCHW", "BHWC" or "BLC", its (H,W)), the likeliest first.

    Those without padding come before those with it.
    """
    if output.ndim not in (3, 4) or len(output) != batch:
        return []
    if output.ndim == 3:
        windows = range(1, LARGEST_WINDOW + 1)
        sizes = dict.fromkeys((_up(lr_size[0], window), _up(lr_size[1], window)) for window in windows)
        readings = [("BLC", size) for size in sizes if size[0] * size[1] == output.shape[1]]
    else:
        _, a, b, c = output.shape
        readings = [("BCHW", (b, c)), ("BHWC", (a, b))]
    fitting = [(name, size) for name, size in readings if _is_padded(size, lr_size)]
    fitting.sort(key=lambda reading: reading[1] != lr_size)
    # Of several paddings with as many pixels nobody can tell which it was.
    unsure = output.ndim == 3 and len(fitting) > 1 and fitting[0][1] != lr_size
    return [] if unsure else fitting


def to_bchw(output: Tensor, layout: str, size: tuple[int, int]) -> Tensor:
    """Features in one of the `layouts` -> (B,C,H,W), uncut."""
    if layout == "BLC":
        return output.transpose(1, 2).unflatten(2, size)
    return output if layout == "BCHW" else output.permute(0, 3, 1, 2)


def from_bchw(features: Tensor, layout: str) -> Tensor:
    """Undoes `to_bchw`."""
    if layout == "BLC":
        return features.flatten(2).transpose(1, 2)
    return features if layout == "BCHW" else features.permute(0, 2, 3, 1)


def _up(size: int, multiple: int) -> int:
    return size + -size % multiple


def _is_padded(size: tuple[int, int], lr_size: tuple[int, int]) -> bool:
    return all(of_lr <= side < 2 * of_lr for side, of_lr in zip(size, lr_size, strict=True))
