from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mtkd_dist.data import bicubic_downscale
from mtkd_dist.methods import Batch, Crops, FrozenNetworks, Unsuitable
from mtkd_dist.methods.dukd import DUKD, alterations, zoom_in, zoom_out
from mtkd_dist.methods.invertible import OPERATIONS, augment, undo
from mtkd_dist.models import build_network
from tests.nets import Nearest

TEACHERS = FrozenNetworks({"a": Nearest(2), "b": Nearest(2, gain=0.5)})


def crops(batch: int = 3, side: int = 8, scale: int = 2) -> Crops:
    torch.manual_seed(batch)
    lr, hr = torch.rand(batch, 3, side, side).double(), torch.rand(batch, 3, scale * side, scale * side).double()
    return Crops(lr, hr, tuple(range(100, 100 + batch)))


def batch_of(of: Crops, method: DUKD) -> Batch:
    return Batch(of.lr, of.hr, method.teach(of, TEACHERS), of.checks)


def one_of_each() -> torch.Tensor:
    """(16,4): all combinations of the operations."""
    return torch.tensor(list(itertools.product([False, True], repeat=len(OPERATIONS))))


def test_undoing_any_combination_gives_the_image_back() -> None:
    chosen = one_of_each()
    images = torch.rand(len(chosen), 3, 5, 5).double()
    torch.testing.assert_close(undo(augment(images, chosen), chosen), images)


def test_undoing_in_forward_order_would_not() -> None:
    """The known defect, and why the order matters at all: a mirror and a transposition do not commute."""
    image, both = torch.rand(1, 3, 5, 5), torch.tensor([[False, True, False, True]])
    altered = augment(image, both)
    assert not torch.equal(altered.flip(-1).transpose(-1, -2), image)
    assert torch.equal(undo(altered, both), image)


@given(chosen=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4), side=st.integers(1, 6))
def test_undoing_puts_the_answer_of_a_network_in_the_place_of_the_question(chosen: list[list[bool]], side: int) -> None:
    """An enlargement that treats all places and colours alike answers the same, altered or not."""
    images, which = torch.rand(len(chosen), 3, side, side).double(), torch.tensor(chosen)
    torch.testing.assert_close(undo(Nearest(3)(augment(images, which)), which), Nearest(3)(images))


def test_the_loss_is_its_formula() -> None:
    method, of = DUKD(hr_weight=5, teacher_weight=2, alter=0), crops()
    student = Nearest(2, gain=0.8)
    total = 5 * (student(of.lr) - of.hr).abs().mean() + 5 * (student(zoom_out(of)) - of.lr).abs().mean()
    for teacher in TEACHERS.teachers.values():
        for asked in (of.lr, zoom_in(of), zoom_out(of)):
            total += 2 * (student(asked) - teacher(asked)).abs().mean() / 2
    losses = method.loss(student, batch_of(of, method))
    assert losses.total.item() == pytest.approx(total.item(), rel=1e-12)


def test_the_student_is_asked_altered_and_the_teachers_are_not() -> None:
    of, heard = crops(), []

    class Listens(Nearest):
        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            heard.append(lr)
            return super().forward(lr)

    method = DUKD(alter=1)
    everything = torch.ones(3, 4, dtype=torch.bool)
    method.loss(Listens(2), batch_of(of, method))
    assert torch.equal(heard[0], torch.cat([augment(of.lr, everything), augment(zoom_in(of), everything)]))
    assert torch.equal(heard[1], augment(zoom_out(of), everything))
    assert torch.equal(method.teach(of, TEACHERS)["teachers"][:, 0], Nearest(2)(of.lr))


def test_a_student_that_treats_all_places_and_colours_alike_has_the_same_loss_whatever_is_altered() -> None:
    of = crops()
    losses = [DUKD(alter=alter).loss(Nearest(2), batch_of(of, DUKD())).total.item() for alter in (0.0, 0.5, 1.0)]
    assert losses[1:] == pytest.approx(losses[:1] * 2)


def test_the_whole_loss_has_the_right_gradient() -> None:
    class Gain(nn.Module):
        def __init__(self, gain: torch.Tensor) -> None:
            super().__init__()
            self.gain = gain

        def forward(self, lr: torch.Tensor) -> torch.Tensor:
            return Nearest(2)(lr) * self.gain

    method, of = DUKD(alter=0.5), crops(side=4)
    batch = batch_of(of, method)
    gain = torch.rand(3, 1, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: method.loss(Gain(g), batch).total, [gain])


def test_the_tile_is_cut_out_of_hr_as_it_is() -> None:
    of = crops(batch=4)
    for tile, hr in zip(zoom_in(of), of.hr, strict=True):
        places = hr.unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert (places == tile).flatten(1).all(1).any()


def test_tiles_reach_every_corner_of_hr() -> None:
    hr = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), torch.arange(1.0), indexing="ij"))[..., 0]
    of = Crops(torch.zeros(400, 3, 2, 2), hr.expand(400, 3, 4, 4), tuple(range(400)))
    corners = {tuple(tile[:2, 0, 0].tolist()) for tile in zoom_in(of)}
    assert corners == set(itertools.product([0.0, 1.0, 2.0], repeat=2))


def test_zooming_out_is_matlabs_bicubic_within_the_range_of_images() -> None:
    of = crops()
    assert torch.equal(zoom_out(of), bicubic_downscale(of.lr, 2).clamp(0, 1))


def test_what_is_drawn_belongs_to_the_sample_not_to_its_slot_rank_or_time() -> None:
    of = crops(batch=3)
    last = Crops(of.lr[2:], of.hr[2:], of.checks[2:])
    torch.manual_seed(99)
    assert torch.equal(zoom_in(last), zoom_in(of)[2:])
    assert torch.equal(alterations(last, 0.5, "crop"), alterations(of, 0.5, "crop")[2:])


def test_every_operation_is_drawn_as_often_as_asked_and_apart_from_the_others() -> None:
    of = crops(batch=1)._replace(lr=torch.empty(4000, 3, 1, 1), checks=tuple(range(4000)))
    drawn = {question: alterations(of, 0.3, question).double() for question in ("crop", "zoom in", "zoom out")}
    for chosen in drawn.values():
        assert torch.allclose(chosen.mean(0), torch.full((4,), 0.3).double(), atol=0.03)
    together = torch.corrcoef(torch.cat(list(drawn.values()), dim=1).T) - torch.eye(12)
    assert together.abs().max() < 0.1


def test_both_halves_ask_the_same_questions_of_float32_images() -> None:
    of = crops()
    lr, hr = ((images * 255).byte().float() / 255 for images in (of.lr, of.hr))
    teacher_half, student_half = (Crops(lr.clone(), hr.clone(), of.checks) for _ in range(2))
    assert torch.equal(zoom_in(teacher_half), zoom_in(student_half))


def test_answers_to_all_three_questions_travel() -> None:
    shapes = {name: tuple(signal.shape) for name, signal in DUKD().teach(crops(), TEACHERS).items()}
    assert shapes == {"teachers": (3, 2, 3, 16, 16), "zoom_in": (3, 2, 3, 16, 16), "zoom_out": (3, 2, 3, 8, 8)}


def test_the_student_learns_from_every_part() -> None:
    method, of = DUKD(), crops()
    student = build_network("edsr-baseline:width=4,blocks=1", 2).double()
    for name in ("l1_hr", "l1_teachers", "l1_zoom_in", "l1_lr", "l1_zoom_out"):
        student.zero_grad()
        method.loss(student, batch_of(of, method)).parts[name].backward()
        assert student.get_parameter("head.0.weight").grad.any(), name  # type: ignore[union-attr]


def test_a_batch_without_checks_is_refused() -> None:
    method, of = DUKD(), crops()
    with pytest.raises(ValueError, match="3 samples come with 0 checks"):
        method.loss(Nearest(2), dataclasses.replace(batch_of(of, method), checks=()))


@pytest.mark.parametrize(
    ("patch", "message"), [(10, "10 LR pixels cannot be shrunk 4 times.*take 8 or 12"), (3, "take 4$")]
)
def test_a_patch_that_cannot_be_shrunk_is_refused_before_anything_starts(patch: int, message: str) -> None:
    DUKD().check_patch(8, 4)
    with pytest.raises(Unsuitable, match=message):
        DUKD().check_patch(patch, 4)
