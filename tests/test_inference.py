from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mtkd_dist.data import bicubic_upscale, build_store, find_photos
from mtkd_dist.methods.taps import features_of
from mtkd_dist.metrics import from_uint8, score, to_uint8
from mtkd_dist.models import build_network, load_network
from mtkd_dist.models.precision import fitting_dtype, inference_dtype
from mtkd_dist.pools.inference import MAX_GRAPHS, Frozen
from tests.nets import TINY, Nearest

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "device", "dtype"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda", torch.float16),
        ("float32", "cuda", torch.float32),
        ("bfloat16", "cpu", torch.bfloat16),
        ("float16", "cpu", torch.float16),
    ],
)
def test_teachers_compute_in_half_precision_on_a_gpu_unless_told_otherwise(
    precision: Any, device: str, dtype: torch.dtype
) -> None:
    assert inference_dtype(precision, torch.device(device)) == dtype


def test_a_frozen_network_answers_what_the_network_answers() -> None:
    network = build_network(TINY, 2)
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = network.eval()(images)
    answer = Frozen("teacher a", network, 2, CPU, torch.float32)(images)
    torch.testing.assert_close(answer, expected, atol=1e-6, rtol=1e-5)
    assert not answer.requires_grad


def test_an_answer_of_another_shape_names_the_network_and_both_shapes() -> None:
    frozen = Frozen("teacher a", Nearest(scale=3), 2, CPU, torch.float32)
    with pytest.raises(
        ValueError, match=r"teacher a answers images of shape \(1, 3, 12, 12\), expected \(1, 3, 8, 8\)"
    ):
        frozen(torch.rand(1, 3, 4, 4))


class Loud(nn.Module):
    """Leaves the range of float16 on the way, as networks for values of 0 to 255 may."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Conv2d(3, 3, 1)
        nn.init.constant_(self.grow.weight, 1e5)

    def forward(self, images: Tensor) -> Tensor:
        return self.grow(images) / 1e5


def test_a_network_that_leaves_the_range_of_half_precision_computes_in_float32() -> None:
    images = torch.rand(1, 3, 4, 4)
    assert fitting_dtype(Loud(), images, torch.float16) == torch.float32
    assert fitting_dtype(Loud(), images, torch.bfloat16) == torch.bfloat16
    assert fitting_dtype(Nearest(2), images, torch.float16) == torch.float16


def test_half_precision_costs_a_real_teacher_less_than_a_hundredth_of_a_decibel(
    shared_dir: Path, tmp_path: Path
) -> None:
    photos = find_photos(shared_dir / "data/test/Set5", 4).photos[:1]
    store = build_store(photos, 4, tmp_path / "store")
    network = load_network(shared_dir / "weights/rlfn_x4.pth", scale=4).module

    def psnr(dtype: torch.dtype) -> float:
        sr = Frozen("RLFN", network, 4, CPU, dtype)(from_uint8(store.lr(0)))[0]
        return score(to_uint8(sr), store.hr(0), 4)[0]

    exact = psnr(torch.float32)
    assert exact > score(bicubic_upscale(store.lr(0), 4), store.hr(0), 4)[0] + 1
    assert abs(psnr(torch.float16) - exact) < 0.01


def test_two_networks_are_never_captured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = list[str](), list[int]()

    def captured(name: str, network: nn.Module, images: Tensor) -> None:
        at_once.append(name)
        most.append(len(at_once))
        time.sleep(0.05)
        at_once.remove(name)

    monkeypatch.setattr("mtkd_dist.pools.inference._captured", captured)
    networks = [Frozen(f"teacher {i}", Nearest(2), 2, CPU, torch.float32) for i in range(3)]
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda network: network._graph(torch.rand(1, 3, 4, 4)), networks))
    assert most == [1, 1, 1]


@pytest.mark.gpu
def test_a_captured_graph_answers_each_image_as_the_network_does() -> None:
    device = torch.device("cuda")
    network = build_network(TINY, 2).to(device).eval()
    frozen = Frozen("teacher a", network, 2, device, torch.float32)
    for _ in range(3):
        images = torch.rand(2, 3, 8, 8, device=device)
        torch.testing.assert_close(frozen(images), frozen.network(images), atol=1e-5, rtol=1e-4)
    assert all(graph is not None for graph in frozen._graphs.values())


@pytest.mark.gpu
def test_features_are_heard_of_a_network_that_is_captured_for_others() -> None:
    device = torch.device("cuda")
    network = build_network(TINY, 2).to(device).eval()
    frozen = Frozen("teacher a", network, 2, device, torch.float32)
    lr = torch.rand(2, 3, 8, 8, device=device)
    for _ in range(2):
        image = frozen(lr)
        heard, features = features_of(frozen, lr, ["late"])
        torch.testing.assert_close(heard, image, atol=1e-5, rtol=1e-4)
        assert features["late"].shape == (2, 8, 8, 8)
    assert all(graph is not None for graph in frozen._graphs.values())


@pytest.mark.gpu
def test_sizes_beyond_those_that_are_captured_are_answered_too() -> None:
    device = torch.device("cuda")
    frozen = Frozen("teacher a", build_network(TINY, 2), 2, device, torch.float16)
    for side in range(8, 8 + 2 * (MAX_GRAPHS + 2), 2):
        assert frozen(torch.rand(1, 3, side, side, device=device)).shape == (1, 3, 2 * side, 2 * side)
    assert len(frozen._graphs) == MAX_GRAPHS


class Moody(nn.Module):
    """Asks the device a question in the middle, which no graph can hold."""

    def forward(self, images: Tensor) -> Tensor:
        return images.repeat_interleave(2, -1).repeat_interleave(2, -2) if images.mean().item() >= 0 else images


@pytest.mark.gpu
def test_a_network_that_cannot_be_captured_runs_without() -> None:
    device = torch.device("cuda")
    images = torch.rand(1, 3, 4, 4, device=device)
    frozen = Frozen("teacher a", Moody(), 2, device, torch.float32)
    torch.testing.assert_close(frozen(images), Moody()(images))
    torch.testing.assert_close(frozen(images), Moody()(images))


@pytest.mark.gpu
def test_several_teachers_are_queued_without_waiting_for_any() -> None:
    device = torch.device("cuda")
    teachers = [Frozen(f"teacher {i}", build_network(TINY, 2), 2, device, torch.float16) for i in range(3)]
    images = torch.rand(2, 3, 8, 8, device=device)
    for teacher in teachers:
        teacher(images)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        answers = [teacher(images) for teacher in teachers]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(answers) == 3
