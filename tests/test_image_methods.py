"""Methods whose signals are images: their losses against plain formulas, their gradients, both halves over the wire."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import pywt
import torch
from torch import Tensor, nn

from mtkd_dist.config.tree import Config, Distance, WireDtype
from mtkd_dist.methods import (
    MTKD,
    Batch,
    Crops,
    FrozenNetworks,
    Losses,
    MeanOfTeachers,
    Method,
    ResponseKD,
    Supervised,
    images_asked,
    settings_of,
    values_sent,
)
from mtkd_dist.methods.compared import Compared
from mtkd_dist.pools.wire import pack, sample_bytes, size_bytes, unpack
from mtkd_dist.stages.distil_method import distil_method
from tests.nets import Nearest, crops_at


class Given(nn.Module):
    """A student whose image is given."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image = image

    def forward(self, lr: Tensor) -> Tensor:
        return self.image


class Last(nn.Module):
    """An aggregator: the image of the last teacher."""

    def forward(self, stack: Tensor) -> Tensor:
        return stack[:, -1]


THREE = FrozenNetworks({"a": Nearest(2), "b": Nearest(2, gain=0.5), "c": Nearest(2, gain=0.2)}, Last())
DISTANCES: tuple[Distance, ...] = ("wavelet", "l1", "charbonnier")
METHODS: list[Method] = [
    *(MTKD(distance=distance) for distance in DISTANCES),
    MTKD(levels=2, wavelet="db2", band_weights=[0.5, 1.0, 2.0, 4.0]),
    MTKD(each_teacher=[0.5, 0.0, 2.0]),
    *(MeanOfTeachers(distance=distance) for distance in DISTANCES),
    MeanOfTeachers(teacher_weights=[1.0, 2.0, 1.0]),
    ResponseKD(),
    ResponseKD(hr_weight=0.5, teacher_weight=2.0, teacher_weights=[1.0, 0.0, 3.0]),
    Supervised(),
]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(method: Method, networks: FrozenNetworks = THREE) -> tuple[Losses, Tensor, Batch]:
    """Both halves in one process, in float64; with the student's image and what it was compared with."""
    lr, hr, sr = images(2, 3, 4, 4, seed=1), images(2, 3, 8, 8, seed=2), images(2, 3, 8, 8, seed=3)
    batch = Batch(lr, hr, method.teach(Crops(lr, hr), networks))
    return method.loss(Given(sr), batch), sr, batch


def plain_distance(distance: Distance, sr: Tensor, target: Tensor) -> float:
    difference = (sr - target).numpy()
    if distance == "l1":
        return float(np.abs(difference).mean())
    if distance == "charbonnier":
        return float(np.sqrt(difference**2 + 0.001**2).mean())
    low, high = pywt.dwt2(difference, "haar", mode="periodization")
    return float(np.abs(low).mean() + np.abs(np.stack(high)).mean())


@pytest.mark.parametrize("distance", DISTANCES)
def test_mtkd_compares_with_the_aggregate_by_the_chosen_distance(distance: Distance) -> None:
    losses, sr, batch = loss_of(MTKD(distance=distance, l1_weight=0.25))
    compared = plain_distance(distance, sr, batch.signals["aggregate"])
    truth = float(np.abs((sr - batch.hr).numpy()).mean())
    assert losses.total.item() == pytest.approx(compared + 0.25 * truth, rel=1e-12)
    assert losses.parts.keys() == {distance, "l1_hr"}
    assert losses.parts[distance].item() == pytest.approx(compared, rel=1e-12)


def test_mtkd_may_compare_with_each_teacher_as_well_by_weights_of_their_own() -> None:
    paper, _, _ = loss_of(MTKD(distance="l1"))
    losses, sr, batch = loss_of(MTKD(distance="l1", each_teacher=[0.5, 0.0, 2.0]))
    images = batch.signals["teachers"]
    own = 0.5 * (sr - images[:, 0]).abs().mean() + 2.0 * (sr - images[:, 2]).abs().mean()
    torch.testing.assert_close(losses.total, paper.total + own, rtol=1e-12, atol=0)
    torch.testing.assert_close(losses.parts["each_teacher"], own, rtol=1e-12, atol=0)


def test_a_weight_that_came_later_leaves_what_was_trained_before_it_as_it_was() -> None:
    assert "each_teacher" not in settings_of(MTKD())
    assert settings_of(MTKD(each_teacher=[1.0]))["each_teacher"] == [1.0]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("weights", "shares"), [([], [1 / 3] * 3), ([1.0, 2.0, 5.0], [1 / 8, 2 / 8, 5 / 8])])
def test_the_mean_of_the_teachers_takes_the_place_of_the_aggregate_in_mtkds_own_loss(
    distance: Distance, weights: list[float], shares: list[float]
) -> None:
    losses, sr, batch = loss_of(MeanOfTeachers(distance=distance, l1_weight=0.25, teacher_weights=weights))
    mean = sum(share * teacher(batch.lr) for share, teacher in zip(shares, THREE.teachers.values(), strict=True))
    expected = plain_distance(distance, sr, mean) + 0.25 * float((sr - batch.hr).abs().mean())
    assert losses.total.item() == pytest.approx(expected, rel=1e-12)
    same = MTKD(distance=distance, l1_weight=0.25)
    of_mtkd = same.loss(Given(sr), dataclasses.replace(batch, signals={"aggregate": batch.signals["mean"]}))
    assert torch.equal(losses.total, of_mtkd.total)


def test_every_setting_of_mtkds_loss_is_one_of_the_mean_with_the_same_default() -> None:
    mtkd, mean = dataclasses.asdict(MTKD()), dataclasses.asdict(MeanOfTeachers())
    del mtkd["each_teacher"]  # its target is one of them
    assert mean == mtkd | {"teacher_weights": []}


def test_kd_weighs_the_distance_to_the_truth_and_the_mean_distance_to_each_teacher() -> None:
    losses, sr, batch = loss_of(ResponseKD(hr_weight=0.5, teacher_weight=3.0))
    of_each = [float((sr - teacher(batch.lr)).abs().mean()) for teacher in THREE.teachers.values()]
    truth = float((sr - batch.hr).abs().mean())
    assert losses.total.item() == pytest.approx(0.5 * truth + 3 * sum(of_each) / 3, rel=1e-12)
    weighted, _, _ = loss_of(ResponseKD(teacher_weights=[1.0, 0.0, 3.0]))
    assert weighted.total.item() == pytest.approx(truth + (of_each[0] + 3 * of_each[2]) / 4, rel=1e-12)


def test_kd_with_one_teacher_is_that_of_the_field() -> None:
    losses, sr, batch = loss_of(ResponseKD(), FrozenNetworks({"a": Nearest(2)}))
    assert batch.signals["teachers"].shape == (2, 1, 3, 8, 8)
    expected = (sr - batch.hr).abs().mean() + (sr - Nearest(2)(batch.lr)).abs().mean()
    assert losses.total.item() == pytest.approx(float(expected), rel=1e-12)


def test_with_teachers_that_disagree_kd_is_not_l1_to_their_mean() -> None:
    kd, sr, batch = loss_of(ResponseKD(hr_weight=0.0))
    mean = batch.signals["teachers"].mean(1)
    # The distance to the mean is never more than the mean distance.
    assert kd.total.item() > (sr - mean).abs().mean().item() + 1e-3


def test_scratch_learns_from_the_truth_alone() -> None:
    losses, sr, batch = loss_of(Supervised())
    assert batch.signals == {}
    assert losses.total.item() == pytest.approx(float((sr - batch.hr).abs().mean()), rel=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_gradient_of_every_loss_is_that_of_its_value(method: Method) -> None:
    lr, sr = images(1, 1, 4, 4, seed=1), images(1, 1, 8, 8, seed=3).requires_grad_()
    batch = Batch(lr, images(1, 1, 8, 8, seed=2), method.teach(crops_at(lr), THREE))
    assert torch.autograd.gradcheck(lambda image: method.loss(Given(image), batch).total, sr)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize(("wire", "error"), [("float32", 0.0), ("float16", 5e-4), ("uint8", 2e-3)])
def test_both_halves_with_the_wire_between_them_give_the_loss_of_one_process(
    method: Method, wire: WireDtype, error: float
) -> None:
    lr, hr, sr = (images(2, 3, side, side, seed=side).float() for side in (4, 8, 8))
    signals = method.teach(Crops(lr, hr), THREE)
    sent = {name: unpack([array], torch.device("cpu")) for name, array in pack(signals, wire).items()}
    here, there = (method.loss(Given(sr), Batch(lr, hr, its)).total.item() for its in (signals, sent))
    # Errors of the wavelet's four bands add up, and teachers may weigh more than 1.
    assert there == here if error == 0 else there == pytest.approx(here, abs=4 * error)


def test_weights_of_another_number_of_teachers_are_refused_rather_than_stretched() -> None:
    for method in (MeanOfTeachers(teacher_weights=[1.0]), ResponseKD(teacher_weights=[1.0])):
        with pytest.raises(ValueError, match=r"1 weights of teachers \[1.0\], and there are 3"):
            loss_of(method)


def test_the_teachers_of_which_images_travel_are_those_that_the_method_needs() -> None:
    asked = {"mtkd": {"aggregate"}, "mean": {"teachers"}, "kd": {"teachers"}, "scratch": set()}
    travelling = {"mtkd": 1, "mean": 1, "kd": 3, "scratch": 0}
    for name in asked:
        method = distil_method(Config(method=name))  # type: ignore[arg-type]
        assert images_asked(method, 3, 2) == asked[name]
        assert values_sent(method, 3, 2, 4) == travelling[name] * 3 * 8 * 8


@pytest.mark.parametrize("method", METHODS[-2:] + METHODS[:1], ids=repr)
@pytest.mark.parametrize("wire", ["float32", "float16", "uint8"])
def test_the_bytes_that_are_promised_are_those_of_an_answer(method: Method, wire: WireDtype) -> None:
    lr, hr = np.zeros((1, 3, 4, 4), np.uint8), np.zeros((1, 3, 8, 8), np.uint8)
    signals = pack(method.teach(crops_at(torch.rand(1, 3, 4, 4)), THREE), wire)
    assert size_bytes({"lr": lr, "hr": hr, "signals": signals}) == sample_bytes(
        4, 2, values_sent(method, 3, 2, 4), wire
    )


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_settings_come_back_from_json_as_they_were(method: Method) -> None:
    settings = settings_of(method)
    assert json.loads(json.dumps(settings)) == settings


def test_what_a_method_learned_later_is_a_setting_only_where_it_is_used() -> None:
    assert settings_of(MTKD()).keys() == {"levels", "l1_weight", "wavelet", "band_weights", "needs_teachers"}
    assert settings_of(MTKD(distance="l1")).keys() - settings_of(MTKD()).keys() == {"distance"}
    charbonnier = settings_of(MTKD(distance="charbonnier", charbonnier_eps=1e-6))
    assert charbonnier.keys() - settings_of(MTKD()).keys() == {"distance", "charbonnier_eps"}
    assert {field.name for field in dataclasses.fields(Compared)} <= charbonnier.keys()
