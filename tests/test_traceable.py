"""Networks as torch.export follows them: the same answers, with no decision that depends on a size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.models import build_network
from mtkd_dist.models.padding import _pad_by_index, pad_bottom_right
from mtkd_dist.models.spandrel_adapter import recognise
from mtkd_dist.models.traceable import traceable

SWINIR = "swinir-light:width=12,groups=1,layers=2,heads=2,window=4"


@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), more=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_a_padding_by_index_is_the_mirror_that_all_networks_use(size: tuple[int, int], more: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    assert torch.equal(_pad_by_index(images, *more), pad_bottom_right(images, *more))


@pytest.mark.parametrize("size", [(1, 1), (5, 18), (16, 32), (64, 59)])
def test_swinir_answers_the_same_while_it_can_be_followed(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network(SWINIR, 2).eval()
    lr = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = network(lr)
        with traceable(network):
            assert torch.equal(network(lr), expected)


def test_so_does_the_swinir_of_a_file_that_spandrel_loads() -> None:
    torch.manual_seed(0)
    network = recognise(build_network(SWINIR, 2).state_dict(), "swinir.pth")
    lr = torch.rand(1, 3, 18, 21)
    with torch.no_grad():
        expected = network(lr)
        with traceable(network):
            assert torch.equal(network(lr), expected)


def test_afterwards_the_network_is_what_it_was() -> None:
    network = build_network(SWINIR, 2)
    before = {name: set(vars(part)) for name, part in network.named_modules()}
    with traceable(network):
        assert before != {name: set(vars(part)) for name, part in network.named_modules()}
    assert before == {name: set(vars(part)) for name, part in network.named_modules()}
