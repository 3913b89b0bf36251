from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import pywt
import torch
from torch import nn

from mtkd_dist.methods import MTKD, Aggregation, Batch, FrozenNetworks, Method, Supervised
from mtkd_kernels import haar_l1_loss
from tests.nets import Nearest, crops_at


class MeanOf(nn.Module):
    def forward(self, stack: torch.Tensor) -> torch.Tensor:
        return stack.mean(1)


NETWORKS = FrozenNetworks({"a": Nearest(2), "b": Nearest(2, gain=3.0)}, MeanOf())


@pytest.mark.parametrize("method", [Supervised(), Aggregation(), MTKD()])
def test_every_method_has_both_halves(method: object) -> None:
    assert isinstance(method, Method)


def test_training_on_the_truth_needs_no_teachers() -> None:
    assert not Supervised().needs_teachers
    assert Supervised().teach(crops_at(torch.rand(1, 3, 4, 4)), NETWORKS) == {}


def test_the_aggregator_in_training_gets_the_image_of_every_teacher_in_their_order() -> None:
    lr = torch.rand(2, 3, 4, 4)
    stack = Aggregation().teach(crops_at(lr), NETWORKS)["teachers"]
    assert stack.shape == (2, 2, 3, 8, 8)
    assert torch.equal(stack[:, 1], 3.0 * stack[:, 0])


def test_the_aggregators_loss_is_l1_to_the_truth() -> None:
    hr, stack = torch.rand(2, 3, 8, 8), torch.rand(2, 2, 3, 8, 8)
    losses = Aggregation().loss(MeanOf(), Batch(torch.rand(2, 3, 4, 4), hr, {"teachers": stack}))
    assert losses.total.item() == pytest.approx((stack.mean(1) - hr).abs().mean().item())


def test_one_image_travels_where_the_aggregator_is_frozen() -> None:
    signals = MTKD().teach(crops_at(torch.rand(2, 3, 4, 4)), NETWORKS)
    assert {name: tuple(signal.shape) for name, signal in signals.items()} == {"aggregate": (2, 3, 8, 8)}


def test_mtkd_without_an_aggregator_says_what_makes_one() -> None:
    with pytest.raises(ValueError, match="aggregate stage"):
        MTKD().teach(crops_at(torch.rand(1, 3, 4, 4)), FrozenNetworks({"a": Nearest(2)}))


def test_mtkds_loss_is_the_wavelet_loss_to_the_aggregate_and_a_tenth_of_l1_to_the_truth() -> None:
    batch = Batch(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8), {"aggregate": torch.rand(2, 3, 8, 8)})
    student = Nearest(2)
    losses = MTKD(levels=2, l1_weight=0.1).loss(student, batch)
    wavelet = haar_l1_loss(student(batch.lr), batch.signals["aggregate"], levels=2)
    truth = (student(batch.lr) - batch.hr).abs().mean()
    assert losses.total.item() == pytest.approx((wavelet + 0.1 * truth).item())
    assert losses.parts["wavelet"].item() == pytest.approx(wavelet.item())


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_band_weights_count_ll_lh_hl_hh_on_every_level_of_any_wavelet(wavelet: str) -> None:
    batch = Batch(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16), {"aggregate": torch.rand(2, 3, 16, 16)})
    student = Nearest(2)
    method = MTKD(levels=2, l1_weight=0, wavelet=wavelet, band_weights=[0.5, 1, 2, 4])
    difference = (student(batch.lr) - batch.signals["aggregate"]).double().numpy()
    low, *details = pywt.wavedec2(difference, wavelet, mode="periodization", level=2)
    expected = 0.5 * np.abs(low).mean()
    for lh, hl, hh in details:
        expected += (np.abs(lh) + 2 * np.abs(hl) + 4 * np.abs(hh)).mean() / 3
    assert method.loss(student, batch).total.item() == pytest.approx(expected, rel=1e-5)


def test_no_band_weights_are_a_one_for_each_band() -> None:
    batch = Batch(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 8, 8), {"aggregate": torch.rand(1, 3, 8, 8)})
    plain, ones = (MTKD(levels=2, band_weights=weights).loss(Nearest(2), batch) for weights in ([], [1.0] * 4))
    assert plain.total.item() == ones.total.item()


def test_the_settings_of_the_loss_come_back_from_json_as_they_were() -> None:
    """Otherwise a finished stage, whose manifest is JSON, would never be done before."""
    settings = dataclasses.asdict(MTKD(band_weights=[1.0, 0.5, 0.5, 0.25]))
    assert json.loads(json.dumps(settings)) == settings
