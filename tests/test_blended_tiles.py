"""Tiles with blended seams: how a picture is cut, that no seam shows, and how large a tile may be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mtkd_dist.data import read_image
from mtkd_dist.metrics import from_uint8
from mtkd_dist.models import build_network, load_network
from mtkd_dist.pictures import memory
from mtkd_dist.pictures.memory import LARGEST, bytes_per_pixel, is_out_of_memory, largest_tile
from mtkd_dist.pictures.tiles import GRID, OVERLAP, RAMP, SMALLEST, enlarged_strips, spans
from tests.nets import Nearest

TILES = st.integers(SMALLEST, 1200)
SCALES = st.integers(1, 4)


@given(st.integers(1, 6000), TILES, SCALES)
def test_spans_cover_every_pixel_with_weights_that_add_up_to_1(length: int, tile: int, scale: int) -> None:
    total = torch.zeros(scale * length)
    for span in spans(length, tile, scale):
        assert 0 < span.stop - span.start <= tile
        assert span.start % GRID == 0
        assert span.weights.min() >= 0
        total[scale * span.start : scale * span.stop] += span.weights
    torch.testing.assert_close(total, torch.ones_like(total))


@given(st.integers(SMALLEST, 6000), TILES)
def test_what_lies_near_an_edge_that_is_none_does_not_count(length: int, tile: int) -> None:
    for span in spans(length, tile, 1):
        near = (OVERLAP - RAMP) // 2
        assert span.start == 0 or span.weights[:near].max() == 0
        assert span.stop == length or span.weights[-near:].max() == 0


@given(st.integers(1, 6000), TILES)
def test_spans_are_as_few_as_can_be_and_of_one_size(length: int, tile: int) -> None:
    pieces = spans(length, tile, 1)
    usable = tile if length <= tile else tile // GRID * GRID
    assert len(pieces) <= max(1, -(-(length - OVERLAP) // (usable - OVERLAP)))
    assert len({span.stop - span.start for span in pieces[:-1]}) <= 1


def whole(network: nn.Module, lr: Tensor) -> Tensor:
    with torch.no_grad():
        return network(lr)


def tiled(network: nn.Module, lr: Tensor, scale: int, tile: int) -> Tensor:
    with torch.no_grad():
        return torch.cat(list(enlarged_strips(network, lr, scale, tile)), -2)


@pytest.mark.parametrize("size", [(250, 170), (161, 301), (60, 400)])
def test_tiles_give_the_whole_picture_where_the_network_looks_at_a_neighbourhood(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = build_network("edsr-baseline:width=8,blocks=3", 2).eval()
    lr = torch.rand(1, 3, *size)
    torch.testing.assert_close(tiled(network, lr, 2, SMALLEST), whole(network, lr), atol=1e-5, rtol=0)


def test_tiles_of_a_network_that_looks_far_are_within_a_level_of_8_bits() -> None:
    torch.manual_seed(0)
    network = build_network("edsr-baseline:width=8,blocks=32", 2).eval()  # 69 pixels to each side
    lr = torch.rand(1, 3, 250, 120)
    assert (tiled(network, lr, 2, SMALLEST) - whole(network, lr)).abs().max() < 1 / 255


def test_windows_of_attention_lie_where_they_would_without_tiles() -> None:
    torch.manual_seed(0)
    network = build_network("swinir-light:width=12,groups=1,layers=2,heads=2", 2).eval()
    lr = torch.rand(1, 3, 192, 192)
    assert (tiled(network, lr, 2, SMALLEST) - whole(network, lr)).abs().max() < 1e-4


@pytest.mark.slow
def test_a_published_transformer_in_tiles_is_the_whole_within_a_level_away_from_the_border(shared_dir: Path) -> None:
    network = load_network(shared_dir / "weights" / "DCTLSA_x4.pt").module
    lr = from_uint8(read_image(shared_dir / "data/test/Set5/HR/woman.png"))[..., 60:172, :]
    difference = (tiled(network, lr, 4, SMALLEST) - whole(network, lr)).abs()
    inside = difference[..., 64:-64, 64:-64]  # at a border it looks beyond, at the other one
    assert inside.max() < 1 / 255


def test_strips_come_from_top_to_bottom_and_are_the_picture() -> None:
    lr = torch.rand(1, 3, 300, 180)
    strips = list(enlarged_strips(Nearest(3), lr, 3, SMALLEST))
    assert len(strips) > 2
    torch.testing.assert_close(torch.cat(strips, -2), Nearest(3)(lr))


def test_no_tile_is_larger_than_it_may_be() -> None:
    def network(lr: Tensor) -> Tensor:
        assert max(lr.shape[-2:]) <= 170
        return Nearest(2)(lr)

    list(enlarged_strips(network, torch.rand(1, 3, 333, 222), 2, 170))


def test_a_picture_that_is_not_larger_than_a_tile_is_done_whole() -> None:
    sizes: list[tuple[int, ...]] = []

    def network(lr: Tensor) -> Tensor:
        sizes.append(tuple(lr.shape[-2:]))
        return Nearest(2)(lr)

    list(enlarged_strips(network, torch.rand(1, 3, 170, 33), 2, 170))
    assert sizes == [(170, 33)]


# Memory


def test_what_a_network_needs_is_what_lives_at_its_worst_moment() -> None:
    class Two(nn.Module):
        """16 and then 4 channels more are alive beside the input; the 8 in between are gone by then."""

        def forward(self, lr: Tensor) -> Tensor:
            wide = lr.new_zeros(1, 16, *lr.shape[-2:])
            wide.new_zeros(1, 8, *lr.shape[-2:]).sum()
            return wide[:, :1] + lr.new_zeros(1, 4, *lr.shape[-2:])[:, :3]

    assert bytes_per_pixel(Two(), torch.device("cpu")) == pytest.approx(4 * (16 + 8), abs=0.1)


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(2, 4), st.floats(10, 1e6), st.floats(1e3, 1e12))
def test_the_largest_tile_that_fits_is_taken(
    height: int, width: int, scale: int, per_pixel: float, free: float
) -> None:
    def needed(tile: int) -> float:
        rows = min(tile, height)
        return per_pixel * rows * min(tile, width) + 24 * scale**2 * rows * width

    tile = largest_tile(height, width, scale, per_pixel, free)
    assert SMALLEST <= tile <= LARGEST
    assert tile == SMALLEST or needed(tile) <= free
    assert tile == LARGEST or needed(tile + GRID) > free


def test_a_gpu_holds_the_network_and_main_memory_the_picture() -> None:
    assert largest_tile(5000, 5000, 4, per_pixel=1000, free=1e12, free_on_gpu=1000 * 640**2) == 640
    assert largest_tile(5000, 5000, 4, per_pixel=1000, free=24 * 16 * 640 * 5000, free_on_gpu=1e12) == 640


def test_a_lack_of_memory_is_recognised_in_all_its_words() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("Calculated padded input size per channel: (2 x 2)"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_free_memory_is_that_of_machine_and_container(tmp_path: Path) -> None:
    assert 0 < memory.free_bytes(torch.device("cpu")) < 1 << 50
    for name, text in (("max", "1000\n"), ("current", "900\n"), ("stat", "anon 600\ninactive_file 300\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory._of_container(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_container(tmp_path) is None
    assert memory._of_container(tmp_path / "gone") is None
