from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtkd_dist.models.ensemble import self_ensemble, turn, turn_back
from tests.nets import Nearest

SYMMETRIES = st.tuples(st.booleans(), st.integers(0, 3))
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def lopsided(lr: torch.Tensor) -> torch.Tensor:
    """x2; every place and direction is treated in another way: equivariant under no symmetry."""
    weight = torch.arange(lr[0].numel(), dtype=lr.dtype).view(lr.shape[1:]) + 1
    sr = (lr * weight).cumsum(-1).repeat_interleave(2, -1).repeat_interleave(2, -2)
    return sr + torch.arange(sr.shape[-2], dtype=lr.dtype)[:, None]


@settings(deadline=None)
@given(size=SIZES, symmetry=SYMMETRIES)
def test_every_turn_is_undone_exactly(size: tuple[int, int], symmetry: tuple[bool, int]) -> None:
    image = torch.rand(1, 3, *size)
    assert torch.equal(turn_back(turn(image, *symmetry), *symmetry), image)


def test_the_turns_are_eight_different_ones() -> None:
    image = torch.rand(1, 3, 4, 4)
    turned = {tuple(turn(image, mirrored, quarters).flatten().tolist()) for mirrored in (0, 1) for quarters in range(4)}
    assert len(turned) == 8


@settings(deadline=None)
@given(size=SIZES, symmetry=SYMMETRIES)
def test_the_ensemble_of_any_network_commutes_with_every_symmetry(
    size: tuple[int, int], symmetry: tuple[bool, int]
) -> None:
    lr = torch.rand(2, 3, *size, dtype=torch.float64)
    turned_first = self_ensemble(lopsided, turn(lr, *symmetry))
    torch.testing.assert_close(turned_first, turn(self_ensemble(lopsided, lr), *symmetry))


@settings(deadline=None)
@given(size=SIZES)
def test_the_ensemble_of_an_equivariant_network_is_its_plain_answer(size: tuple[int, int]) -> None:
    lr = torch.rand(1, 3, *size)
    torch.testing.assert_close(self_ensemble(Nearest(3), lr), Nearest(3)(lr))


def test_the_ensemble_is_the_mean_of_eight_answers_and_leaves_them_as_they_were() -> None:
    lr = torch.rand(1, 3, 3, 5)
    shared = torch.rand(1, 3, 6, 6)

    def stubborn(lr: torch.Tensor) -> torch.Tensor:
        return shared

    square = torch.rand(1, 3, 3, 3)
    before = shared.clone()
    mean = torch.stack([turn_back(shared, mirrored, q) for mirrored in (False, True) for q in range(4)]).mean(0)
    torch.testing.assert_close(self_ensemble(stubborn, square), mean)
    assert torch.equal(shared, before)
    assert self_ensemble(Nearest(2), lr).shape == (1, 3, 6, 10)
