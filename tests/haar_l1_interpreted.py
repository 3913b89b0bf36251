"""The Triton kernels of the Haar L1 loss in Triton's interpreter, on a CPU. Run by test_haar_l1_kernels.py.

TRITON_INTERPRET=1 has to be set before the kernels are imported, which is why these tests have a process of their own:

    TRITON_INTERPRET=1 pytest tests/haar_l1_interpreted.py
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 in the environment", allow_module_level=True)

from mtkd_kernels.haar_l1_launch import codes_bytes
from mtkd_kernels.haar_l1_op import _backward, _forward, haar_l1_fused
from mtkd_kernels.haar_l1_reference import haar_l1_reference

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LEVELS = (1, 2, 3, 4, 5)
# float32 partial sums against float64; half precision rounds the gradient when it is stored.
# (A GPU rounds to the nearest bfloat16, within 2**-8; the interpreter cuts off, within 2**-7.)
GRADIENT_RTOL = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def scales_for(levels: int) -> list[float]:
    """All different, so that exchanged sub-bands show."""
    return [0.5 + 0.37 * i for i in range(3 * levels + 1)]


def pair(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Normal values, equal in the first 8 x 8 pixels of the first plane."""
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    t[0, 0, :8, :8] = s[0, 0, :8, :8]
    return s.requires_grad_(), t


def dyadic_pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Multiples of 1/256, on which every sum of the transform is exact, and many differences are 0."""
    generator = torch.Generator().manual_seed(seed)
    s, t = (torch.randint(0, 4, shape, generator=generator) / 256 for _ in range(2))
    return s.requires_grad_(), t


def loss_and_gradient(function, s: Tensor, t: Tensor, scales: list[float], levels: int, upstream: Tensor):  # type: ignore[no-untyped-def]
    loss = function(s, t, scales, levels, True) if function is haar_l1_fused else function(s, t, scales, levels)
    return loss.detach(), torch.autograd.grad(loss, s, upstream.to(loss.dtype))[0]


def check(s: Tensor, t: Tensor, levels: int) -> None:
    """Loss and gradient against float64 autograd of the plain reference."""
    scales, upstream = scales_for(levels), torch.linspace(-2, 3, s.shape[0])
    loss, gradient = loss_and_gradient(haar_l1_fused, s, t, scales, levels, upstream)
    s64 = s.detach().double().requires_grad_()
    t64 = t.double() / 255 if t.dtype == torch.uint8 else t.double()
    expected, expected_gradient = loss_and_gradient(haar_l1_reference, s64, t64, scales, levels, upstream)
    assert gradient.dtype == s.dtype
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    size = expected_gradient.abs().max().item()
    # Where a coefficient is 0 but for rounding, its sign is anybody's: a pixel in a thousand may differ.
    error = (gradient.double() - expected_gradient).abs()
    wrong = error > GRADIENT_RTOL[s.dtype] * size
    assert wrong.double().mean().item() <= 1e-3, f"{int(wrong.sum())} of {wrong.numel()} pixels, up to {error.max()}"


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("levels", LEVELS)
def test_loss_and_gradient_equal_float64_autograd(dtype: torch.dtype, levels: int) -> None:
    blocks = (3, 5) if levels < 4 else (1, 2)
    check(*pair((2, 2, blocks[0] * 2**levels, blocks[1] * 2**levels), dtype), levels)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_loss_equals_pywavelets(levels: int) -> None:
    s, t = pair((2, 2, 16, 48))
    scales = scales_for(levels)
    low, *details = pywt.wavedec2(
        (s - t).detach().double().numpy(), "haar", mode="periodization", level=levels, axes=(-2, -1)
    )
    bands = [*(band for level in details[::-1] for band in level), low]
    expected = sum(scale * np.abs(band).sum() for scale, band in zip(scales, bands, strict=True))
    assert haar_l1_fused(s, t, scales, levels, False).item() == pytest.approx(expected, rel=1e-6)


@given(
    levels=st.integers(1, 4), batch=st.integers(1, 2), channels=st.integers(1, 2), height=st.integers(1, 3),
    width=st.integers(1, 5), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=12, deadline=None, derandomize=True)
def test_any_shape_that_divides(
    levels: int, batch: int, channels: int, height: int, width: int, dtype: torch.dtype, seed: int
) -> None:
    check(*pair((batch, channels, height * 2**levels, width * 2**levels), dtype, seed), levels)


@pytest.mark.parametrize(("levels", "width"), [(1, 200), (2, 520), (3, 520)])
def test_planes_wider_than_a_tile(levels: int, width: int) -> None:
    check(*pair((1, 1, 24, width)), levels)


@pytest.mark.parametrize("levels", LEVELS)
def test_dyadic_images_agree_bit_for_bit(levels: int) -> None:
    """Every sum is exact here, so signs, zeros and, with powers of two as weights, all bits must be the same."""
    s, t = dyadic_pair((2, 2, 32, 64))
    scales, upstream = [(1.0, 2.0, 0.5)[i % 3] for i in range(3 * levels + 1)], torch.tensor([1.0, -0.5])
    loss, gradient = loss_and_gradient(haar_l1_fused, s, t, scales, levels, upstream)
    expected, expected_gradient = loss_and_gradient(haar_l1_reference, s, t, scales, levels, upstream)
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_equal_images_have_exactly_no_loss_and_no_gradient(levels: int) -> None:
    s, _ = pair((1, 2, 16, 32))
    loss = haar_l1_fused(s, s.detach().clone(), scales_for(levels), levels, False)
    assert loss.item() == 0
    assert torch.count_nonzero(torch.autograd.grad(loss, s)[0]) == 0


@pytest.mark.parametrize(("levels", "dtype"), [(1, torch.float32), (2, torch.bfloat16), (3, torch.float16)])
def test_uint8_target_is_divided_by_255(levels: int, dtype: torch.dtype) -> None:
    s, _ = pair((2, 3, 16, 24), dtype)
    t = torch.randint(0, 256, s.shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    check(s, t, levels)


def test_target_may_have_another_dtype() -> None:
    s, t = pair((2, 3, 16, 24))
    check(s, t.bfloat16(), 2)
    check(s.detach().bfloat16().requires_grad_(), t, 3)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: torch.cat([x, x], dim=-1)[..., x.shape[-1] :],
        lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
        lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
    ],
    ids=["channels_last", "cropped", "transposed", "not aligned to 16 bytes"],
)
@pytest.mark.parametrize("levels", [1, 4])
def test_strides_do_not_matter(view, levels: int) -> None:  # type: ignore[no-untyped-def]
    s, t = pair((1, 3, 16, 16))
    viewed = view(s.detach()).requires_grad_()
    losses = [
        haar_l1_fused(x, y, scales_for(levels), levels, False) for x, y in ((s, t), (viewed, view(t)), (viewed, t))
    ]
    expected = torch.autograd.grad(losses[0], s)[0]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(torch.autograd.grad(loss, viewed)[0], expected)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [3, 8])
def test_channels_last_is_read_in_place(levels: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s, t = (x.to(memory_format=torch.channels_last) for x in pair((2, channels, 16, 32)))
    s = s.detach().requires_grad_()
    check(s, t, levels)
    gradient = torch.autograd.grad(haar_l1_fused(s, t, scales_for(levels), levels, False), s)[0]
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    forms = []
    contiguous = Tensor.contiguous
    monkeypatch.setattr(Tensor, "contiguous", lambda x, **kw: forms.append((x, contiguous(x, **kw))) or forms[-1][1])
    haar_l1_fused(s.detach(), t, scales_for(levels), levels, False)
    assert len(forms) == 2
    assert all(before.data_ptr() == after.data_ptr() for before, after in forms)


def test_upstream_gradient_may_be_an_expanded_scalar() -> None:
    s, t = pair((3, 2, 8, 8))
    mean = haar_l1_fused(s, t, scales_for(1), 1, True).mean()
    total = haar_l1_fused(s, t, scales_for(1), 1, False)
    torch.testing.assert_close(torch.autograd.grad(mean, s)[0] * 3, torch.autograd.grad(total, s)[0])


def test_results_repeat_bit_for_bit() -> None:
    s, t = pair((2, 2, 24, 40))
    first, second = (haar_l1_fused(s, t, scales_for(3), 3, False) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.autograd.grad(first, s)[0], torch.autograd.grad(second, s)[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixel_that_is_not_finite_shows_in_the_loss_of_its_image_alone(value: float) -> None:
    s, t = pair((2, 3, 16, 24))
    with torch.no_grad():
        s[1, 0, 3, 5] = value
    assert haar_l1_fused(s, t, scales_for(3), 3, True).isfinite().tolist() == [True, False]


def test_coefficients_that_are_nan_add_nothing_to_the_gradient() -> None:
    s, t = pair((1, 1, 8, 16))
    with torch.no_grad():
        s[0, 0, :, 8:] = float("nan")
    grad = torch.autograd.grad(haar_l1_fused(s, t, scales_for(3), 3, False), s)[0]
    assert grad.isfinite().all()
    assert torch.count_nonzero(grad[..., 8:]) == 0


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_quarter_byte_a_pixel_is_kept_for_backward(levels: int) -> None:
    kept: list[Tensor] = []
    s, t = pair((2, 3, 16, 24))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        haar_l1_fused(s, t, scales_for(levels), levels, False)
    assert sum(x.nbytes for x in kept) == s.numel() // 4 == codes_bytes(s.shape, levels)


def test_levels_of_a_second_launch_keep_a_64th_more() -> None:
    assert codes_bytes((1, 4, 64, 64), 4) == 64 * 64 + 64 * 64 // 64


@pytest.mark.parametrize(("levels", "per_image"), [(1, True), (4, False)])
def test_operators_pass_the_checks_of_torch(levels: int, per_image: bool) -> None:
    s, t = pair((2, 1, 16, 16))
    scales = scales_for(levels)
    torch.library.opcheck(_forward, (s, t, scales, levels, per_image))
    _, codes = _forward(s.detach(), t, scales, levels, per_image)
    upstream = torch.ones(2) if per_image else torch.tensor(1.0)
    torch.library.opcheck(_backward, (codes, upstream, scales, levels, per_image, s.shape, s.dtype, False))


def test_operators_compile_without_a_graph_break() -> None:
    s, t = pair((2, 3, 16, 24))

    def training_loss(s: Tensor, t: Tensor) -> Tensor:
        return 3 * haar_l1_fused(s, t, scales_for(2), 2, False)

    compiled = torch.compile(training_loss, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(s, t), training_loss(s, t))
    assert torch.equal(torch.autograd.grad(compiled(s, t), s)[0], torch.autograd.grad(training_loss(s, t), s)[0])


def test_operators_compile_for_shapes_that_change() -> None:
    def training_loss(s: Tensor, t: Tensor) -> Tensor:
        return haar_l1_fused(s, t, [weight / s.numel() for weight in scales_for(4)], 4, False)

    compiled = torch.compile(training_loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((2, 1, 16, 16), (3, 1, 16, 32), (1, 2, 32, 16)):
        s, t = pair(shape)
        assert torch.equal(torch.autograd.grad(compiled(s, t), s)[0], torch.autograd.grad(training_loss(s, t), s)[0])


def test_autocast_changes_nothing() -> None:
    s, t = pair((2, 3, 16, 24))
    with torch.autocast("cpu", torch.bfloat16):
        loss = haar_l1_fused(s, t, scales_for(2), 2, False)
    assert torch.equal(loss, haar_l1_fused(s, t, scales_for(2), 2, False))
