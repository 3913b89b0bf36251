from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtkd_dist.data import bicubic_downscale, list_images, matlab_downscale, read_image
from mtkd_dist.metrics import modcrop

SCALES = st.integers(2, 4)
SIDES = st.integers(1, 6)


def as_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


def pictures(height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_it_is_matlabs_bicubic_but_for_the_rounding(shared_dir: Path, scale: int) -> None:
    # Of 8-bit levels: rounding, there twice and here never, makes up to 1.2; clipping between the passes, at a few
    # pixels beside sharp edges, makes up to 3.
    for path in list_images(shared_dir / "data" / "test" / "Set5" / "HR"):
        hr = modcrop(read_image(path), scale)
        exact = as_tensor(matlab_downscale(hr, scale))
        levels = 255 * (bicubic_downscale(as_tensor(hr), scale).clamp(0, 1) - exact).double()
        assert (levels.abs() > 1.2).double().mean() < 1e-3
        assert levels.abs().max() < 3
        assert levels.mean().abs() < 0.01
        assert 20 * torch.log10(255 / levels.square().mean().sqrt()) > 57


@settings(deadline=None)
@given(st.floats(0, 1), SCALES, SIDES, SIDES)
def test_a_flat_image_stays_flat_at_every_size(value: float, scale: int, height: int, width: int) -> None:
    lr = bicubic_downscale(torch.full((1, 3, scale * height, scale * width), value), scale)
    torch.testing.assert_close(lr, torch.full((1, 3, height, width), value))


@settings(deadline=None)
@given(SCALES, SIDES, SIDES, st.sampled_from([(-1,), (-2,), (-1, -2)]))
def test_a_flip_before_is_a_flip_after(scale: int, height: int, width: int, axes: tuple[int, ...]) -> None:
    hr = pictures(scale * height, scale * width)
    torch.testing.assert_close(bicubic_downscale(hr.flip(axes), scale), bicubic_downscale(hr, scale).flip(axes))


@settings(deadline=None, max_examples=25)
@given(SCALES, SIDES, SIDES, st.floats(-2, 2))
def test_it_is_linear(scale: int, height: int, width: int, factor: float) -> None:
    a, b = (pictures(scale * height, scale * width, seed) for seed in (1, 2))
    together = bicubic_downscale(a + factor * b, scale)
    torch.testing.assert_close(together, bicubic_downscale(a, scale) + factor * bicubic_downscale(b, scale))


def test_gradients_are_those_of_the_numbers() -> None:
    hr = pictures(6, 9, dtype=torch.float64)[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: bicubic_downscale(x, 3), hr)


def test_gradients_flow_after_a_first_use_in_inference_mode() -> None:
    with torch.inference_mode():
        bicubic_downscale(pictures(22, 26), 2)
    hr = pictures(22, 26).requires_grad_()
    bicubic_downscale(hr, 2).sum().backward()
    assert hr.grad is not None


def test_bfloat16_loses_only_what_its_own_rounding_loses() -> None:
    hr = pictures(24, 24).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        lr = bicubic_downscale(hr, 4)
    assert lr.dtype == torch.bfloat16
    assert torch.equal(lr, bicubic_downscale(hr.float(), 4).bfloat16())


@pytest.mark.parametrize(
    ("hr", "scale", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 2, "uint8"),
        (torch.zeros(3, 8, 8), 2, r"\(3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8), 0, "scale"),
        (torch.zeros(1, 3, 9, 13), 4, "9x13 pixels cannot be shrunk by 4: crop it to 8x12"),
    ],
)
def test_what_cannot_be_shrunk_is_refused(hr: torch.Tensor, scale: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bicubic_downscale(hr, scale)
