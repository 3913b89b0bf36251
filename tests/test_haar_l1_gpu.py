"""The wavelet loss on a GPU: what the interpreter and the compiler cannot show. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mtkd_kernels import haar_l1_loss
from mtkd_kernels.haar_l1_reference import haar_l1_reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def pair(shape: tuple[int, ...] = (2, 3, 96, 200), dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    s, t = (torch.randn(shape, generator=generator, device="cuda").to(dtype) for _ in range(2))
    return s.requires_grad_(), t


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_loss_and_gradient_equal_float64_autograd(levels: int, dtype: torch.dtype, layout: torch.memory_format) -> None:
    s, t = (x.detach().to(memory_format=layout) for x in pair((2, 3, 96, 224), dtype))
    s.requires_grad_()
    s64 = s.detach().double().requires_grad_()
    loss, expected = (haar_l1_loss(x, y, levels, reduction="image") for x, y in ((s, t), (s64, t.double())))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    upstream = torch.tensor([-2.0, 0.5], device="cuda")
    (gradient,) = torch.autograd.grad(loss, s, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, s64, upstream.double())
    wrong = (gradient.double() - expected_gradient).abs() > 2**-8 * expected_gradient.abs().max()
    assert wrong.double().mean() <= 1e-3


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_dyadic_images_agree_bit_for_bit(levels: int) -> None:
    s, t = (torch.randint(0, 4, (2, 2, 64, 64), device="cuda") / 256 for _ in range(2))
    s.requires_grad_()
    scales = [1.0] * (3 * levels + 1)
    fused, plain = haar_l1_loss(s, t, levels, reduction="sum"), haar_l1_reference(s, t, scales, levels).sum()
    assert torch.equal(fused, plain)
    assert torch.equal(torch.autograd.grad(fused, s)[0], torch.autograd.grad(plain, s)[0])


def test_nothing_waits_for_the_device() -> None:
    s, t = pair()
    haar_l1_loss(s, t, 3).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        (haar_l1_loss(s, t, 3) * 1024).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graph_replays_the_same_numbers() -> None:
    s, t = pair()
    expected = torch.autograd.grad(haar_l1_loss(s, t, 4), s)[0]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.autograd.grad(haar_l1_loss(s, t, 4), s)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (gradient,) = torch.autograd.grad(haar_l1_loss(s, t, 4), s)
    gradient.zero_()
    graph.replay()
    assert torch.equal(gradient, expected)


def test_inductor_compiles_without_a_graph_break() -> None:
    s, t = pair()
    compiled = torch.compile(lambda s, t: haar_l1_loss(s, t, 2), fullgraph=True)
    assert torch.equal(torch.autograd.grad(compiled(s, t), s)[0], torch.autograd.grad(haar_l1_loss(s, t, 2), s)[0])


def test_planes_beyond_2_to_the_31_pixels() -> None:
    shape = (3, 1, 32768, 32768)
    if torch.cuda.mem_get_info()[0] < 24e9:
        pytest.skip("needs 24 GB of free GPU memory")
    s = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
    t = torch.zeros(shape, dtype=torch.uint8, device="cuda")
    s[-1, 0, -2:, -2:] = 1
    loss = haar_l1_loss(s.requires_grad_(), t, reduction="image", weights=(0, 1))
    assert loss.tolist() == [0, 0, pytest.approx(2 / (32768**2 / 4))]
    (gradient,) = torch.autograd.grad(loss.sum(), s)
    assert torch.count_nonzero(gradient[-1, 0, -2:, -2:]) == 4
    assert torch.count_nonzero(gradient) == 4
