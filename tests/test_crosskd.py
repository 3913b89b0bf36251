from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.methods import Batch, Crops, FrozenNetworks, Method, Unsuitable
from mtkd_dist.methods.adapters import StudentWithAdapters, shipped
from mtkd_dist.methods.crosskd import CrossKD
from mtkd_dist.methods.tails import Tail
from mtkd_dist.methods.taps import features_of
from mtkd_dist.models import build_network, load_network, load_strict, save_network
from mtkd_dist.models.precision import Autocast
from mtkd_dist.train.state import TrainState

FAMILIES = (
    "edsr-baseline:width=8,blocks=3",
    "rcan-light:groups=3,blocks=1,width=16,reduction=4",
    "swinir-light:width=12,groups=3,layers=1,heads=2",
    "rlfn:width=6,blocks=3",
)
STUDENT = "edsr-baseline:width=8,blocks=3"


def frozen(text: str, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(text, 2).eval().requires_grad_(False)


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(STUDENT, 2)


def batch_for(teachers: dict[str, nn.Module], side: int = 8, dtype: torch.dtype = torch.float32) -> Batch:
    torch.manual_seed(2)
    lr, hr = torch.rand(2, 3, side, side, dtype=dtype), torch.rand(2, 3, 2 * side, 2 * side, dtype=dtype)
    with torch.no_grad():
        return Batch(lr, hr, CrossKD().teach(Crops(lr, hr), FrozenNetworks(teachers)))


@pytest.mark.parametrize("text", FAMILIES)
def test_a_tail_that_gets_the_networks_own_features_makes_the_networks_image(text: str) -> None:
    network, lr = frozen(text), torch.rand(2, 3, 16, 16)
    image, features = features_of(network, lr, ["middle"])
    torch.testing.assert_close(Tail(network, "middle", 16)(lr, features["middle"]), image)


@pytest.mark.parametrize("text", FAMILIES)
def test_a_tail_leaves_out_the_blocks_before_the_tap_and_the_network_as_it_was(text: str) -> None:
    network = frozen(text)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    early, late = (sum(p.numel() for p in Tail(network, tap, 8).parameters()) for tap in ("early", "late"))
    assert late < early < sum(p.numel() for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_blocks_that_more_than_the_tap_depends_on_stay() -> None:
    from mtkd_dist.models.spandrel_adapter import allow_torchvision_import

    allow_torchvision_import()
    from spandrel.architectures.DCTLSA import DCTLSA

    network = DCTLSA(nf=10, upscale=2).eval()
    lr = torch.rand(1, 3, 16, 16)
    image, features = features_of(network, lr, ["late"])
    tail = Tail(network, "late", 16)
    torch.testing.assert_close(tail(lr, features["late"]), image)
    assert sum(p.numel() for p in tail.parameters()) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("side", [8, 11])
def test_the_loss_is_the_distance_to_the_truth_and_that_of_what_the_tails_make_of_the_students_features(
    side: int,
) -> None:
    teachers = {text.partition(":")[0]: frozen(text).double() for text in FAMILIES}
    network, batch = student().double(), batch_for(teachers, side, torch.float64)
    method = CrossKD(tap="early", teacher_tap="middle", hr_weight=0.5, cross_weight=3)
    equipped = method.equip(network, teachers, side).double()
    sr, features = features_of(network, batch.lr, ["early"])
    expected = 0.5 * (sr - batch.hr).abs().mean()
    for n, (teacher, adapter) in enumerate(zip(teachers.values(), equipped.adapters, strict=True)):
        image = Tail(teacher, "middle", side)(batch.lr, adapter(features["early"]))
        expected += 3 * (image - batch.signals["teachers"][:, n]).abs().mean() / len(teachers)
    assert isinstance(method, Method)
    assert method.loss(equipped, batch).total.item() == pytest.approx(expected.item(), rel=1e-12)


def test_an_adapter_stands_only_where_widths_differ() -> None:
    equipped = CrossKD().equip(student(), {"same": frozen(FAMILIES[0]), "wider": frozen(FAMILIES[1])}, 8)
    assert [type(adapter) for adapter in equipped.adapters] == [nn.Identity, nn.Conv2d]
    assert equipped.adapters[1].weight.shape == (16, 8, 1, 1)  # type: ignore[union-attr]


def test_the_gradient_flows_through_the_tail_to_student_and_adapter_and_stops_at_the_teachers_weights() -> None:
    # Teachers that nobody froze: the tails see to it themselves.
    teachers = {text.partition(":")[0]: frozen(text).requires_grad_() for text in FAMILIES[1:]}
    equipped = CrossKD(tap="middle").equip(student(), teachers, 8)
    CrossKD().loss(equipped, batch_for(teachers)).parts["l1_crossed"].backward()
    for adapter in equipped.adapters:
        assert adapter.weight.grad.any()  # type: ignore[union-attr]
    assert equipped.student.get_parameter("head.0.weight").grad.any()  # type: ignore[union-attr]
    assert equipped.student.get_parameter("tail.1.weight").grad is None
    assert not any(p.requires_grad for tail in equipped.tails for p in tail.parameters())
    assert all(p.grad is None for one in (*equipped.tails, *teachers.values()) for p in one.parameters())


@pytest.mark.parametrize("text", FAMILIES)
def test_the_gradient_through_a_tail_is_right(text: str) -> None:
    """Also where the network writes into its features, as RCAN does."""
    tail = Tail(frozen(text).double(), "middle", 8)
    lr = torch.rand(1, 3, 8, 8).double()
    features = torch.randn(1, tail.width, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: tail(lr, f), [features], fast_mode=True)


def test_the_whole_loss_has_the_right_gradient() -> None:
    teachers = {"a": frozen(FAMILIES[0], 5).double(), "b": frozen(FAMILIES[1]).double()}
    batch = batch_for(teachers, dtype=torch.float64)
    equipped = CrossKD().equip(student().double(), teachers, 8).double()
    weight = equipped.get_parameter("student.head.0.weight")
    CrossKD().loss(equipped, batch).total.backward()
    direction, step, values = torch.randn_like(weight), 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            weight += sign * step * direction
            values.append(CrossKD().loss(equipped, batch).total.item())
    slope = (values[0] - values[1]) / (2 * step)
    assert weight.grad is not None
    assert (weight.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4)


def test_the_student_starts_from_the_weights_that_it_has_in_any_other_method() -> None:
    equipped = CrossKD().equip(student(), {"b": frozen(FAMILIES[1])}, 8)
    plain = student().state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in shipped(equipped).state_dict().items())


def test_optimizer_ema_and_checkpoint_carry_adapters_and_no_teacher(tmp_path: Path) -> None:
    teachers = {"b": frozen(FAMILIES[1])}
    config = TrainingConfig(steps=4, batch_size=2, patch=8, ema=0.5, learning_rate=1e-3)

    def begun() -> TrainState:
        return TrainState(CrossKD().equip(student(), teachers, 8), config)

    def step(state: TrainState) -> None:
        state.optimizer.zero_grad()
        CrossKD().loss(Autocast(state.model, torch.float32), batch_for(teachers)).total.backward()
        state.update(torch.ones(()))

    state = begun()
    first = state.model.get_parameter("adapters.0.weight").clone()
    step(state)
    assert not torch.equal(state.model.get_parameter("adapters.0.weight"), first)
    torch.save(state.state_dict(), tmp_path / "checkpoint")
    again = begun()
    again.load_state_dict(torch.load(tmp_path / "checkpoint", weights_only=True))
    for both in (state, again):
        step(both)
    assert state.ema is not None
    assert again.ema is not None
    for kept, resumed in ((state.model, again.model), (state.ema, again.ema)):
        assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in kept.state_dict().items())
        names = set(kept.state_dict())
        assert {name.partition(".")[0] for name in names} == {"student", "adapters"}
    load_strict(student(), shipped(state.ema).state_dict(), "the result")


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """Of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_ddp_autocast_and_compilation_of_the_equipped_student_change_nothing(process_group: None) -> None:
    """Two steps each, because DDP and compiled code behave differently from the second one on."""
    teachers = {text.partition(":")[0]: frozen(text) for text in FAMILIES[:2]}
    batch = batch_for(teachers)
    gradients = []
    for wrap in (False, True):
        equipped = CrossKD().equip(student(), teachers, 8)
        network: nn.Module = equipped
        if wrap:
            equipped.compile(backend="eager")
            network = Autocast(DistributedDataParallel(equipped, broadcast_buffers=False), torch.float32)
        for _ in range(2):
            equipped.zero_grad()
            CrossKD().loss(network, batch).total.backward()
        gradients.append({name: parameter.grad for name, parameter in equipped.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_mixed_precision_reaches_the_tails_and_the_loss_is_float32() -> None:
    teachers = {text.partition(":")[0]: frozen(text) for text in FAMILIES}
    batch = batch_for(teachers)
    equipped = CrossKD().equip(student(), teachers, 8)
    losses = [CrossKD().loss(Autocast(equipped, dtype), batch).total for dtype in (torch.float32, torch.bfloat16)]
    assert losses[1].dtype == torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05)


def test_copies_share_the_tails_and_moves_take_them_along() -> None:
    equipped = CrossKD().equip(student(), {"b": frozen(FAMILIES[1])}, 8)
    assert copy.deepcopy(equipped).tails is equipped.tails
    equipped.double()
    assert {p.dtype for p in equipped.tails[0].parameters()} == {torch.float64}


def test_a_file_of_a_teacher_is_all_that_a_rank_needs(tmp_path: Path) -> None:
    teacher = frozen(FAMILIES[1])
    save_network(tmp_path / "b.safetensors", teacher, {"network": FAMILIES[1], "scale": "2"})
    batch = batch_for({"b": teacher})
    losses = []
    for of in (teacher, load_network(tmp_path / "b.safetensors").module):
        losses.append(CrossKD().loss(CrossKD().equip(student(), {"b": of}, 8), batch).total.item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (CrossKD(tap="bodi.1"), "the student: EDSR has no tap 'bodi.1'.*nearest first: body.1"),
        (CrossKD(tap="tail.0"), "the student: EDSR, tap tail.0: .*Taps that work, the nearest first: tail.0.0"),
        (CrossKD(teacher_tap="body.7"), "teacher b: PureRCAN has no tap 'body.7'.*nearest first: body.3, body.2"),
        (CrossKD(teacher_tap="tail.0"), "teacher b: PureRCAN, tap tail.0: .*no map of 8x8.*nearest first: tail.0.0"),
    ],
)
def test_a_split_that_does_not_fit_is_refused_before_anything_starts(method: CrossKD, message: str) -> None:
    with pytest.raises(Unsuitable, match=message):
        method.check(student(), {"b": frozen(FAMILIES[1])}, 8)


class DeadEnd(nn.Module):
    """Its branch is no part of its image."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.up = nn.Conv2d(3, 8, 3, padding=1), nn.Upsample(scale_factor=2)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        self.branch(lr)
        return self.up(lr)


def test_a_split_through_which_nothing_can_be_learned_is_refused() -> None:
    with pytest.raises(Unsuitable, match=r"teacher b: tap branch: the image does not depend on its features"):
        CrossKD(teacher_tap="branch").check(student(), {"b": DeadEnd()}, 8)


def test_no_teacher_and_a_student_without_tails_are_refused() -> None:
    with pytest.raises(Unsuitable, match="none are given"):
        CrossKD().check(student(), {}, 8)
    with pytest.raises(TypeError, match="what `equip` makes of a student, got a EDSR"):
        CrossKD().loss(student(), batch_for({"b": frozen(FAMILIES[1])}))


def test_any_other_network_ships_as_it_is() -> None:
    network = student()
    assert shipped(network) is network
    assert not isinstance(shipped(CrossKD().equip(network, {"b": frozen(FAMILIES[1])}, 8)), StudentWithAdapters)
