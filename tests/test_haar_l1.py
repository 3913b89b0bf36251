"""The Haar L1 loss against PyWavelets, and the rules that any faster implementation of it has to keep."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from mtkd_kernels import HaarL1Loss, haar_dwt2, haar_l1_loss
from mtkd_kernels.haar_l1 import Reduction
from mtkd_kernels.haar_l1_cpu import haar_l1_cpu
from mtkd_kernels.haar_l1_reference import haar_l1_reference

LEVELS = (1, 2, 3)


def images(shape: tuple[int, ...] = (2, 3, 16, 24), seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradient(s: Tensor, t: Tensor, levels: int = 1, weights: tuple[float, ...] | None = None) -> Tensor:
    """Gradient of the mean loss with respect to s."""
    s = s.clone().requires_grad_()
    return torch.autograd.grad(haar_l1_loss(s, t, levels, weights), s)[0]


def pywt_coefficients(x: Tensor, levels: int) -> tuple[np.ndarray, list[tuple[np.ndarray, ...]]]:
    """LL and the details, finest level first."""
    low, *details = pywt.wavedec2(x.numpy(), "haar", mode="periodization", level=levels, axes=(-2, -1))
    return low, details[::-1]


def pywt_loss(s: Tensor, t: Tensor, levels: int, weights: tuple[float, ...]) -> float:
    """The formula of the paper with s and t transformed one by one."""
    (low_s, details_s), (low_t, details_t) = pywt_coefficients(s, levels), pywt_coefficients(t, levels)
    loss = weights[-1] * np.abs(low_s - low_t).mean()
    for weight, bands_s, bands_t in zip(weights, details_s, details_t, strict=False):
        loss += weight * np.abs(np.stack(bands_s) - np.stack(bands_t)).mean()
    return float(loss)


@st.composite
def dyadic_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Two images of multiples of 1/256, on which float32 Haar is exact, and a number of levels that fits them."""
    levels = draw(st.sampled_from((1, 2)))
    sides = st.integers(1, 3).map(lambda blocks: blocks * 2**levels)
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(sides), draw(sides))
    pixels = hnp.arrays(np.int16, shape, elements=st.integers(-64, 320))
    s, t = (torch.from_numpy(draw(pixels)).float() / 256 for _ in range(2))
    return s, t, levels


@pytest.mark.parametrize("levels", LEVELS)
def test_transform_equals_pywavelets(levels: int) -> None:
    x = images()
    low, details = haar_dwt2(x, levels)
    expected_low, expected_details = pywt_coefficients(x, levels)
    np.testing.assert_allclose(low.numpy(), expected_low, rtol=1e-12, atol=1e-12)
    assert len(details) == levels
    for bands, expected_bands in zip(details, expected_details, strict=True):
        for band, expected in zip(bands, expected_bands, strict=True):
            np.testing.assert_allclose(band.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_sub_bands_have_the_documented_formulas() -> None:
    a, b, c, d = 1.0, 2.0, 3.0, 5.0
    low, [(lh, hl, hh)] = haar_dwt2(torch.tensor([[[[a, b], [c, d]]]]))
    assert [low.item(), lh.item(), hl.item(), hh.item()] == [5.5, -2.5, -1.5, 0.5]


def test_default_is_the_loss_of_the_paper() -> None:
    s, t = images(seed=0), images(seed=1)
    assert haar_l1_loss(s, t).item() == pytest.approx(pywt_loss(s, t, 1, (1, 1)), rel=1e-12)


@pytest.mark.parametrize("levels", LEVELS)
def test_weighted_loss_equals_pywavelets(levels: int) -> None:
    s, t, weights = images(seed=0), images(seed=1), (0.5, 2.0, 0.25, 3.0)[: levels + 1]
    expected = pywt_loss(s, t, levels, weights)
    assert haar_l1_loss(s, t, levels, weights).item() == pytest.approx(expected, rel=1e-12)
    assert haar_l1_loss(s.float(), t.float(), levels, weights).item() == pytest.approx(expected, rel=1e-6)


def test_last_weight_is_that_of_ll() -> None:
    offset = images() + 0.25
    assert haar_l1_loss(offset, images(), 2, (1, 1, 0)).item() == pytest.approx(0, abs=1e-12)
    assert haar_l1_loss(offset, images(), 2, (0, 0, 1)).item() == pytest.approx(4 * 0.25)


@given(dyadic_pairs())
@settings(max_examples=50, deadline=None)
def test_loss_depends_on_the_difference_only(pair: tuple[Tensor, Tensor, int]) -> None:
    s, t, levels = pair
    assert haar_l1_loss(s, t, levels) == haar_l1_loss(s - t, torch.zeros_like(s), levels)


@given(dyadic_pairs())
@settings(max_examples=50, deadline=None)
def test_loss_is_symmetric(pair: tuple[Tensor, Tensor, int]) -> None:
    s, t, levels = pair
    assert haar_l1_loss(s, t, levels) == haar_l1_loss(t, s, levels)


@given(dyadic_pairs(), st.booleans())
@settings(max_examples=50, deadline=None)
def test_loss_is_zero_exactly_for_equal_images(pair: tuple[Tensor, Tensor, int], equal: bool) -> None:
    s, t, levels = pair
    t = s.clone() if equal else t
    assert (haar_l1_loss(s, t, levels).item() == 0) == torch.equal(s, t)


@pytest.mark.parametrize("reduction", ["mean", "sum", "image"])
@pytest.mark.parametrize("levels", LEVELS)
def test_gradient_agrees_with_finite_differences(levels: int, reduction: Reduction) -> None:
    s, t = images((2, 1, 8, 8), 0), images((2, 1, 8, 8), 1)
    low, details = haar_dwt2(s - t, levels)
    assert min(band.abs().min() for bands in [*details, (low,)] for band in bands) > 1e-5  # |.| has no kink nearby
    weights = (0.5, 2.0, 0.25, 3.0)[: levels + 1]
    assert torch.autograd.gradcheck(lambda x: haar_l1_loss(x, t, levels, weights, reduction), s.requires_grad_())


def test_gradient_is_the_inverse_transform_of_the_weighted_signs() -> None:
    s, t = images(seed=0), images(seed=1)
    low, (fine, coarse) = pywt_coefficients(s - t, 2)
    signs = [
        3.0 / low.size * np.sign(low),
        tuple(2.0 / (3 * band.size) * np.sign(band) for band in coarse),
        tuple(0.5 / (3 * band.size) * np.sign(band) for band in fine),
    ]
    expected = pywt.waverec2(signs, "haar", mode="periodization", axes=(-2, -1))
    np.testing.assert_allclose(gradient(s, t, 2, (0.5, 2.0, 3.0)).numpy(), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_equal_images_have_exactly_no_gradient(dtype: torch.dtype) -> None:
    s = images(dtype=dtype)
    assert torch.count_nonzero(gradient(s, s.clone(), levels=3)) == 0


def test_pixels_of_equal_blocks_have_exactly_no_gradient() -> None:
    t = images(dtype=torch.float32)
    s = t.clone()
    s[0, 1, 4:8, 8:12] += 1.0
    grad = gradient(s, t, levels=2)
    assert torch.count_nonzero(grad[0, 1, 4:8, 8:12]) > 0
    grad[0, 1, 4:8, 8:12] = 0
    assert torch.count_nonzero(grad) == 0


def test_equal_details_add_exactly_nothing_to_the_gradient_of_ll() -> None:
    t = torch.zeros(2, 3, 8, 8)
    assert torch.equal(gradient(t + 0.5, t), torch.full_like(t, 0.5 / (2 * 3 * 4 * 4)))


def test_target_gets_no_gradient() -> None:
    s, t = images(seed=0).requires_grad_(), images(seed=1).requires_grad_()
    haar_l1_loss(s, t).backward()
    assert s.grad is not None
    assert t.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    s, t = images(seed=0, dtype=dtype), images(seed=1, dtype=dtype)
    loss = haar_l1_loss(s, t, levels=2)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, haar_l1_loss(s.float(), t.float(), levels=2))
    assert torch.equal(gradient(s, t, 2), gradient(s.float(), t.float(), 2).to(dtype))


def test_half_target_of_a_float32_input_is_computed_in_float32() -> None:
    s, t = images(seed=0, dtype=torch.float32), images(seed=1, dtype=torch.float16)
    assert torch.equal(haar_l1_loss(s, t), haar_l1_loss(s, t.float()))


def test_float64_is_kept() -> None:
    assert haar_l1_loss(images(seed=0), images(seed=1)).dtype == torch.float64


def test_uint8_target_is_divided_by_255() -> None:
    s, t = images(dtype=torch.float32), torch.arange(2 * 3 * 16 * 24).remainder(256).to(torch.uint8).view(2, 3, 16, 24)
    assert torch.equal(haar_l1_loss(s, t), haar_l1_loss(s, t.float() / 255))


def test_channels_last_input_has_the_same_loss() -> None:
    s, t = images(seed=0), images(seed=1)
    channels_last = s.to(memory_format=torch.channels_last)
    assert haar_l1_loss(channels_last, t, 2).item() == pytest.approx(haar_l1_loss(s, t, 2).item(), rel=1e-12)


def test_image_reduction_is_the_loss_of_each_image_alone() -> None:
    s, t = images(seed=0), images(seed=1)
    per_image = haar_l1_loss(s, t, 2, reduction="image")
    assert per_image.shape == (2,)
    torch.testing.assert_close(per_image, torch.stack([haar_l1_loss(s[i : i + 1], t[i : i + 1], 2) for i in range(2)]))
    torch.testing.assert_close(per_image.mean(), haar_l1_loss(s, t, 2))


def test_sum_reduction_has_no_denominators() -> None:
    s, t = images(seed=0), images(seed=1)
    low, details = haar_dwt2(s - t, 2)
    fine, coarse = (sum(band.abs().sum() for band in bands) for bands in details)
    expected = 2 * fine + 3 * coarse + 0.5 * low.abs().sum()
    torch.testing.assert_close(haar_l1_loss(s, t, 2, (2, 3, 0.5), "sum"), expected)


def test_module_is_the_function() -> None:
    s, t = images(seed=0), images(seed=1)
    module = HaarL1Loss(levels=2, weights=[2, 3, 0.5], reduction="image")
    assert torch.equal(module(s, t), haar_l1_loss(s, t, 2, [2, 3, 0.5], "image"))
    assert repr(module) == "HaarL1Loss(levels=2, weights=(2.0, 3.0, 0.5), reduction='image')"


@pytest.mark.parametrize("levels", [*LEVELS, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_path_of_the_cpu_is_the_plain_torch_reference(levels: int, dtype: torch.dtype) -> None:
    shape = (2, 3, 16, 32)
    s, t = images(shape, 0, dtype).requires_grad_(), images(shape, 1, dtype)
    scales = torch.linspace(0.5, 2, 3 * levels + 1).tolist()
    upstream = torch.tensor([-3.0, 0.25])
    fast, plain = haar_l1_cpu(s, t, scales, levels), haar_l1_reference(s, t, scales, levels)
    torch.testing.assert_close(fast, plain)
    gradients = [torch.autograd.grad(loss, s, upstream.to(loss.dtype))[0] for loss in (fast, plain)]
    torch.testing.assert_close(*gradients)


def test_weights_of_sub_bands_are_those_of_the_formula() -> None:
    s, t = images(seed=0), images(seed=1)
    low, details = haar_dwt2(s - t, 2)
    weights = ((1.0, 0.0, 3.0), (0.5, 2.0, 0.25))
    expected = 4 * low.abs().mean()
    for entry, bands in zip(weights, details, strict=True):
        expected += sum(w * band.abs().mean() for w, band in zip(entry, bands, strict=True)) / 3
    torch.testing.assert_close(haar_l1_loss(s, t, 2, (*weights, 4)), expected)


def test_one_number_for_a_level_is_three_equal_ones() -> None:
    s, t = images(seed=0), images(seed=1)
    assert torch.equal(haar_l1_loss(s, t, 2, (2, (3, 3, 3), 1)), haar_l1_loss(s, t, 2, ((2, 2, 2), 3, 1)))


def test_gradient_of_each_image_follows_its_upstream_gradient() -> None:
    s, t = images(seed=0).requires_grad_(), images(seed=1)
    upstream = torch.tensor([2.0, -0.5], dtype=torch.float64)
    (grad,) = torch.autograd.grad(haar_l1_loss(s, t, 2, reduction="image"), s, upstream)
    torch.testing.assert_close(grad, gradient(s.detach(), t, 2) * 2 * upstream.view(2, 1, 1, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_pixel_that_is_not_finite_shows_in_the_loss_of_its_image_alone(value: float) -> None:
    s, t = images(seed=0, dtype=torch.float32), images(seed=1, dtype=torch.float32)
    s[1, 0, 3, 5] = value
    finite = haar_l1_loss(s, t, 2, reduction="image").isfinite()
    assert finite.tolist() == [True, False]
    assert not haar_l1_loss(s, t, 2).isfinite()


def test_coefficients_that_are_nan_add_nothing_to_the_gradient() -> None:
    s, t = images(seed=0, dtype=torch.float32), images(seed=1, dtype=torch.float32)
    s[0, 0, :4, :4] = float("nan")
    grad = gradient(s, t, 2)
    assert grad.isfinite().all()
    assert torch.count_nonzero(grad[0, 0, :4, :4]) == 0


def test_loss_is_compiled_without_a_graph_break() -> None:
    s, t = images(seed=0, dtype=torch.float32).requires_grad_(), images(seed=1, dtype=torch.float32)
    compiled = torch.compile(lambda s, t: haar_l1_loss(s, t, 2), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(s, t), haar_l1_loss(s, t, 2))
    torch.testing.assert_close(torch.autograd.grad(compiled(s, t), s)[0], gradient(s.detach(), t, 2))


def test_nothing_but_torch_is_needed() -> None:
    """Triton and PyWavelets are absent on many machines; the import must not fail there."""
    absent = "import sys; sys.modules.update(dict.fromkeys(('triton', 'pywt'))); "
    use = (
        "import torch, mtkd_kernels; print(mtkd_kernels.haar_l1_loss(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)))"
    )
    result = subprocess.run([sys.executable, "-c", absent + use], capture_output=True, text=True)
    assert result.stdout.strip() == "tensor(2.)", result.stderr


GOOD = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize(
    ("input", "target", "message"),
    [
        (GOOD, torch.zeros(1, 3, 8, 4), r"\(1, 3, 8, 8\), target \(1, 3, 8, 4\).*bring the target"),
        (GOOD, torch.zeros(1, 1, 8, 8), "nothing is broadcast"),
        (GOOD[0], GOOD[0], r"\(3, 8, 8\): it must be \(B, C, H, W\).*x\[None\]"),
        (GOOD, GOOD.to("meta"), r"input is on cpu, target on meta: .*target.to\(input.device\)"),
        (GOOD.to(torch.uint8), GOOD, r"input has dtype torch.uint8.*x.float\(\) / 255"),
        (GOOD, GOOD.to(torch.int64), "target has dtype torch.int64"),
        (GOOD.to(torch.complex64), GOOD, "input has dtype torch.complex64"),
        (GOOD[:0], GOOD[:0], r"\(0, 3, 8, 8\).*skip empty batches"),
    ],
)
def test_wrong_tensors_are_refused(input: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        haar_l1_loss(input, target)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 9, 8), "9x8 .*levels=2 both must be divisible by 4; crop to 8x8"),
        ((1, 3, 8, 14), "8x14 .*crop to 8x12"),
        ((1, 3, 2, 8), "2x8 .*use at least 4x4"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        haar_l1_loss(torch.zeros(shape), torch.zeros(shape), levels=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 0}, "levels is 0"),
        ({"levels": 2, "weights": [1, 1]}, "weights has 2 numbers: with levels=2 give 3"),
        ({"weights": [1, -1]}, r"weights is \(1, -1\)"),
        ({"weights": [1, float("nan")]}, r"weights is \(1, nan\)"),
        ({"weights": [(1, 1), 1]}, r"weights of level 1 is \(1, 1\): give one number, or three"),
        ({"weights": [1, (1, 1, 1)]}, "LL is one sub-band"),
        ({"weights": [(1, -1, 1), 1]}, "must be finite and not negative"),
        ({"reduction": "none"}, "reduction is 'none': choose one of 'mean', 'sum', 'image'"),
    ],
)
def test_wrong_settings_are_refused_by_function_and_module(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        haar_l1_loss(GOOD, GOOD, **settings)
    with pytest.raises(ValueError, match=message):
        HaarL1Loss(**settings)


@pytest.mark.parametrize(
    ("x", "levels", "message"),
    [
        (GOOD, 0, "levels is 0"),
        (GOOD, 4, "x is 8x8 .*use at least 16x16"),
        (GOOD[0], 1, r"x has shape \(3, 8, 8\)"),
        (GOOD.to(torch.int32), 1, "x has dtype torch.int32"),
    ],
)
def test_transform_refuses_what_it_cannot_transform(x: Tensor, levels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        haar_dwt2(x, levels)
