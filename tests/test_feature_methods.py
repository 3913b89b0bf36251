"""AT and FAKD: against their formulas in float64, with gradients, across the two halves, and within memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtkd_dist.methods import Batch, Crops, FrozenNetworks, Method, Unsuitable
from mtkd_dist.methods.affinity import FeatureAffinity, affinity_l1, normalised
from mtkd_dist.methods.asked import NeedsNetworks, images_asked
from mtkd_dist.methods.attention import AttentionTransfer, attention_map
from mtkd_dist.methods.featured import Featured
from mtkd_dist.methods.taps import features_of
from mtkd_dist.models import build_network
from mtkd_dist.pools.wire import pack, unpack
from tests.nets import crops_at

METHODS = [AttentionTransfer(), FeatureAffinity()]


def networks() -> tuple[nn.Module, FrozenNetworks]:
    """A student and two teachers of other families and widths, in float64."""
    torch.manual_seed(0)
    texts = {"a": "rcan-light:groups=3,blocks=1,width=16,reduction=4", "b": "rlfn:width=6,blocks=3"}
    teachers = {name: build_network(text, 2).eval().requires_grad_(False).double() for name, text in texts.items()}
    return build_network("edsr-baseline:width=8,blocks=3", 2).double(), FrozenNetworks(dict(teachers))


def batch_for(method: Method, teachers: FrozenNetworks, side: int = 8) -> Batch:
    lr, hr = torch.rand(2, 3, side, side).double(), torch.rand(2, 3, 2 * side, 2 * side).double()
    with torch.no_grad():
        return Batch(lr, hr, method.teach(Crops(lr, hr), teachers))


def whole_affinity_l1(student: Tensor, teacher: Tensor) -> Tensor:
    def affinity(features: Tensor) -> Tensor:
        flat = features.flatten(2)
        return torch.einsum("bcp,bcq->bpq", flat, flat)

    return (affinity(student) - affinity(teacher)).abs().mean()


@pytest.mark.parametrize("method", METHODS)
def test_feature_methods_have_both_halves(method: object) -> None:
    assert isinstance(method, Method)


def test_attention_is_the_energy_of_the_channels_over_its_norm() -> None:
    features = torch.randn(2, 5, 3, 4).double()
    expected = (features**2).sum(1) / ((features**2).sum(1).flatten(1).norm(dim=1) + 1e-6).view(-1, 1, 1)
    torch.testing.assert_close(attention_map(features), expected)


def test_the_loss_of_at_is_the_response_and_the_distances_of_the_maps_of_each_tap() -> None:
    student, teachers = networks()
    method = AttentionTransfer(hr_weight=0.7, teacher_weight=0.3, attention_weight=2)
    batch = batch_for(method, teachers)
    sr, own = features_of(student, batch.lr, method.taps)
    expected = 0.7 * (sr - batch.hr).abs().mean()
    for teacher in teachers.teachers.values():
        image, theirs = features_of(teacher, batch.lr, method.taps)
        expected += 0.3 * (sr - image).abs().mean() / 2
        for tap in method.taps:
            expected += 2 * (attention_map(own[tap]) - attention_map(theirs[tap])).abs().mean() / 2
    assert method.loss(student, batch).total.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_loss_of_fakd_is_the_response_and_the_distances_of_the_affinities_of_each_tap() -> None:
    student, teachers = networks()
    method = FeatureAffinity()
    batch = batch_for(method, teachers)
    sr, own = features_of(student, batch.lr, method.taps)
    expected = 0.5 * (sr - batch.hr).abs().mean()
    for teacher in teachers.teachers.values():
        image, theirs = features_of(teacher, batch.lr, method.taps)
        expected += 0.5 * (sr - image).abs().mean() / 2
        for tap in method.taps:
            pair = [f / (f.norm(dim=1, keepdim=True) + 1e-8) for f in (own[tap], theirs[tap])]
            expected += 10 * whole_affinity_l1(*pair) / 2
    assert method.loss(student, batch).total.item() == pytest.approx(expected.item(), rel=1e-12)


def test_attention_has_the_right_gradient() -> None:
    features = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 3, 4).double()
    assert torch.autograd.gradcheck(lambda f: (attention_map(f) - target).abs().mean(), [features])


@pytest.mark.parametrize("block_entries", [1, 30, 1000])
def test_affinities_by_blocks_have_the_right_gradient(block_entries: int) -> None:
    student = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = normalised(torch.randn(2, 5, 3, 4).double())
    assert torch.autograd.gradcheck(lambda f: affinity_l1(normalised(f), teacher, block_entries), [student])


@pytest.mark.parametrize("method", METHODS)
def test_the_whole_loss_has_the_right_gradient(method: Featured) -> None:
    """With respect to a convolution in front of the first tap, so through features and image alike."""
    student, teachers = networks()
    batch = batch_for(method, teachers)
    weight = student.get_parameter("head.0.weight")
    method.loss(student, batch).total.backward()
    assert weight.grad is not None
    direction, step = torch.randn_like(weight), 1e-6
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            weight += sign * step * direction
            values.append(method.loss(student, batch).total.item())
    slope = (values[0] - values[1]) / (2 * step)
    assert (weight.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("block_entries", [1, 2 * 35, 2 * 35 * 4, 10**6])
def test_affinities_by_blocks_are_those_of_the_whole(block_entries: int) -> None:
    student = normalised(torch.randn(2, 3, 5, 7).double()).requires_grad_()
    teacher = normalised(torch.randn(2, 6, 5, 7).double())
    whole, blocked = whole_affinity_l1(student, teacher), affinity_l1(student, teacher, block_entries)
    assert blocked.item() == pytest.approx(whole.item(), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student)[0] for loss in (blocked, whole)))


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that anything made."""

    entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.entries = max(self.entries, tensor.numel())
        return result


def test_the_affinity_of_a_large_map_is_never_held_whole() -> None:
    pixels, blocks = 128 * 128, 1 << 20
    student, teacher = (normalised(torch.randn(1, 2, 128, 128)).requires_grad_() for _ in range(2))
    with Largest() as seen:
        affinity_l1(student, teacher, blocks).backward()
    assert student.grad is not None
    assert seen.entries <= blocks == pixels**2 / 256


def test_what_backward_keeps_of_the_affinity_is_no_larger_than_the_features() -> None:
    student, teacher = (normalised(torch.randn(1, 4, 16, 16)).requires_grad_() for _ in range(2))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        affinity_l1(student, teacher)
    assert sum(kept) <= student.numel()


@pytest.mark.parametrize(("method", "term"), [(METHODS[0], "attention"), (METHODS[1], "affinity")])
def test_the_gradient_of_the_feature_term_reaches_the_student(method: Featured, term: str) -> None:
    """Public code lost that of FAKD, which left response distillation alone."""
    student, teachers = networks()
    method.loss(student, batch_for(method, teachers)).parts[term].backward()
    for name in ("head.0.weight", "body.0.body.0.weight", "body.2.body.2.weight"):
        gradient = student.get_parameter(name).grad
        assert gradient is not None
        assert gradient.any(), name
    assert student.get_parameter("tail.1.weight").grad is None


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_a_teacher_gets_a_gradient(method: Featured) -> None:
    _, teachers = networks()
    with torch.no_grad():
        signals = method.teach(crops_at(torch.rand(1, 3, 8, 8).double()), teachers)
    assert not any(signal.requires_grad for signal in signals.values())


@pytest.mark.parametrize("method", METHODS)
def test_both_halves_across_the_link_give_the_loss_of_one_process(method: Featured) -> None:
    student, teachers = networks()
    student.float()
    for teacher in teachers.teachers.values():
        teacher.float()
    lr, hr = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        signals = method.teach(Crops(lr, hr), teachers)
    for wire, tolerance in (("float32", 0.0), ("float16", 1e-3)):
        sent = {name: unpack([array], lr.device) for name, array in pack(signals, wire).items()}  # type: ignore[arg-type]
        here, there = (method.loss(student, Batch(lr, hr, s)).total.item() for s in (signals, sent))
        assert there == pytest.approx(here, rel=tolerance)


def test_what_travels_is_a_map_for_each_teacher_and_tap_in_at_and_the_features_in_fakd() -> None:
    _, teachers = networks()
    lr = torch.rand(2, 3, 8, 8).double()
    shapes = [
        {name: tuple(s.shape[1:]) for name, s in method.teach(crops_at(lr), teachers).items()} for method in METHODS
    ]
    assert shapes[0] == {"teachers": (2, 3, 16, 16), "attention": (2, 3, 8, 8)}
    features = {f"features_{n}_{k}": (width, 8, 8) for n, width in enumerate((16, 6)) for k in range(3)}
    assert shapes[1] == {"teachers": (2, 3, 16, 16), **features}


@pytest.mark.parametrize("method", METHODS)
def test_rendered_files_cannot_answer_for_features(method: Method) -> None:
    with pytest.raises(NeedsNetworks, match="live"):
        images_asked(method, 1, 2)


def test_a_check_passes_networks_of_different_families_and_names_the_one_that_does_not_fit() -> None:
    student, teachers = networks()
    AttentionTransfer().check(student, teachers.teachers, 8)
    named = AttentionTransfer(taps=["body.1"], teacher_taps=["body.1"])
    with pytest.raises(Unsuitable, match=r"teacher b: RLFN has no tap 'body.1'.*nearest first: block_1"):
        named.check(student, teachers.teachers, 8)
    with pytest.raises(Unsuitable, match=r"the student: EDSR has no tap 'body.9'"):
        AttentionTransfer(taps=["body.9"]).check(student, teachers.teachers, 8)


def test_a_check_refuses_taps_that_are_no_pairs_no_taps_and_no_teachers() -> None:
    student, teachers = networks()
    with pytest.raises(Unsuitable, match=r"2 \(early, late\) are to be .* pairs with 1 .*\(late\).*as many of both"):
        FeatureAffinity(taps=["late"], teacher_taps=["early", "late"]).check(student, teachers.teachers, 8)
    with pytest.raises(Unsuitable, match="early, middle, late"):
        FeatureAffinity(taps=[]).check(student, teachers.teachers, 8)
    with pytest.raises(Unsuitable, match="none are given"):
        FeatureAffinity().check(student, {}, 8)


def test_affinities_of_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="same height and width"):
        affinity_l1(torch.rand(1, 2, 3, 4), torch.rand(1, 2, 4, 3))
