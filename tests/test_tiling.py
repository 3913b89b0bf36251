from __future__ import annotations

import pytest
import torch

from mtkd_dist.models import build_network
from mtkd_dist.models.tiling import enlarge


@pytest.mark.parametrize("size", [(40, 40), (41, 70), (16, 33)])
def test_tiles_give_the_whole_image_where_the_overlap_covers_the_receptive_field(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network("edsr-baseline:width=8,blocks=1", 2).eval()
    lr = torch.rand(1, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(enlarge(network, lr, 2, tile=16, overlap=8), network(lr), atol=1e-5, rtol=0)


def test_a_small_image_is_done_whole() -> None:
    sizes: list[tuple[int, ...]] = []

    def network(lr: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(lr.shape[-2:]))
        return lr.repeat_interleave(2, -1).repeat_interleave(2, -2)

    enlarge(network, torch.rand(1, 3, 16, 12), 2, tile=16)
    assert sizes == [(16, 12)]


def test_no_tile_is_larger_than_it_may_be() -> None:
    def network(lr: torch.Tensor) -> torch.Tensor:
        assert max(lr.shape[-2:]) <= 16 + 2 * 4
        return lr.repeat_interleave(3, -1).repeat_interleave(3, -2)

    lr = torch.rand(1, 3, 50, 37)
    assert torch.equal(enlarge(network, lr, 3, tile=16, overlap=4)[..., ::3, ::3], lr)
