from __future__ import annotations

import pytest
import torch
from torch import nn

from mtkd_dist.methods import MTKD, Aggregation, Batch, FrozenNetworks, Method, Supervised
from mtkd_kernels import haar_l1_loss
from tests.nets import Nearest


class MeanOf(nn.Module):
    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        return stack.mean(1)


NETWORKS = FrozenNetworks({"a": Nearest(2), "b": Nearest(2, gain=3.0)}, MeanOf())


@pytest.mark.parametrize("method", [Supervised(), Aggregation(), MTKD()])
def test_every_method_has_both_halves(method: object) -> None:
    assert isinstance(method, Method)


def test_training_on_the_truth_needs_no_teachers() -> None:
    assert not Supervised().needs_teachers
    assert Supervised().teach(torch.rand(1, 3, 4, 4), NETWORKS) == {}


def test_the_aggregator_in_training_gets_the_image_of_every_teacher_in_their_order() -> None:
    lr = torch.rand(2, 3, 4, 4)
    stack = Aggregation().teach(lr, NETWORKS)["teachers"]
    assert stack.shape == (2, 2, 3, 8, 8)
    assert torch.equal(stack[:, 1], 3.0 * stack[:, 0])


def test_the_aggregators_loss_is_l1_to_the_truth() -> None:
    hr, stack = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 3, 8, 8)
    losses = Aggregation().loss(MeanOf(), Batch(torch.rand(2, 3, 4, 4), hr, {"teachers": stack}))
    assert losses.total.item() == pytest.approx((stack.mean(1) - hr).abs().mean().item())


def test_one_image_travels_where_the_aggregator_is_frozen() -> None:
    signals = MTKD().teach(torch.rand(2, 3, 4, 4), NETWORKS)
    assert {name: tuple(signal.shape) for name, signal in signals.items()} == {"aggregate": (2, 3, 8, 8)}


def test_mtkd_without_an_aggregator_says_what_makes_one() -> None:
    with pytest.raises(ValueError, match="aggregate stage"):
        MTKD().teach(torch.rand(1, 3, 4, 4), FrozenNetworks({"a": Nearest(2)}))


def test_mtkds_loss_is_the_wavelet_loss_to_the_aggregate_and_a_tenth_of_l1_to_the_truth() -> None:
    batch = Batch(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8), {"aggregate": torch.rand(2, 3, 8, 8)})
    student = Nearest(2)
    losses = MTKD(levels=2, l1_weight=0.1).loss(student, batch)
    wavelet = haar_l1_loss(student(batch.lr), batch.signals["aggregate"], levels=2)
    truth = (student(batch.lr) - batch.hr).abs().mean()
    assert losses.total.item() == pytest.approx((wavelet + 0.1 * truth).item())
    assert losses.parts["wavelet"].item() == pytest.approx(wavelet.item())
