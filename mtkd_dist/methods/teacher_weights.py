"""How much each of several teachers counts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def shares(weights: Sequence[float], images: Tensor) -> Tensor:
    """Weights of 0 or more, in the order of the teachers -> (N,) of sum 1, beside `images` (B,N,3,H,W).

    None given: 1/N for each. Errors: ValueError for another number of them than N.
    """
    count = images.shape[1]
    if weights and len(weights) != count:
        raise ValueError(f"{len(weights)} weights of teachers {list(weights)}, and there are {count} teachers")
    given = images.new_tensor(weights or [1.0] * count)
    return given / given.sum()
