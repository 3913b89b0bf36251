"""Other wavelets than Haar, by PyWavelets' filter banks, against PyWavelets."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from torch import Tensor

from mtkd_kernels import HaarL1Loss, haar_l1_loss
from mtkd_kernels.wavelets import wavelet_dwt2

WAVELETS = ("haar", "db2", "sym4", "bior2.2", "coif1")


def images(seed: int, shape: tuple[int, ...] = (2, 3, 16, 32)) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Level value of")
@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("levels", [1, 2])
def test_transform_equals_pywavelets(wavelet: str, levels: int) -> None:
    x = images(0)
    low, details = wavelet_dwt2(x, wavelet, levels)
    expected_low, *expected = pywt.wavedec2(x.numpy(), wavelet, mode="periodization", level=levels, axes=(-2, -1))
    np.testing.assert_allclose(low.numpy(), expected_low, rtol=1e-10, atol=1e-12)
    for bands, expected_bands in zip(details, expected[::-1], strict=True):
        for band, expected_band in zip(bands, expected_bands, strict=True):
            np.testing.assert_allclose(band.numpy(), expected_band, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Level value of")
@pytest.mark.parametrize("wavelet", ["db2", "bior2.2"])
def test_loss_equals_pywavelets(wavelet: str) -> None:
    s, t = images(0), images(1)
    low, coarse, fine = pywt.wavedec2((s - t).numpy(), wavelet, mode="periodization", level=2, axes=(-2, -1))
    expected = 3 * np.abs(low).mean() + sum(
        sum(w * np.abs(band).mean() for w, band in zip(weights, bands, strict=True)) / 3
        for weights, bands in (((1, 0, 2), fine), ((0.5, 0.5, 0.5), coarse))
    )
    loss = haar_l1_loss(s, t, 2, [(1, 0, 2), 0.5, 3], wavelet=wavelet)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


def test_gradient_is_that_of_the_loss() -> None:
    s, t = images(0, (1, 1, 8, 8)).requires_grad_(), images(1, (1, 1, 8, 8))
    assert torch.autograd.gradcheck(lambda x: haar_l1_loss(x, t, 2, wavelet="db2"), s)


def test_convolutions_stay_in_float32_under_autocast() -> None:
    s, t = images(0).float(), images(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = haar_l1_loss(s, t, wavelet="db2")
    assert torch.equal(loss, haar_l1_loss(s, t, wavelet="db2"))


def test_unknown_wavelet_is_refused_by_function_and_module() -> None:
    for call in (lambda: haar_l1_loss(images(0), images(1), wavelet="morl"), lambda: HaarL1Loss(wavelet="morl")):
        with pytest.raises(ValueError, match=r"wavelet is 'morl': choose 'haar' or a name of pywt.wavelist"):
            call()


def test_image_that_is_smaller_than_the_filter_is_refused() -> None:
    small = images(0, (1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"level 2 of wavelet 'db4' starts from 2x2.*reaches 3 pixels"):
        haar_l1_loss(small, small, 2, wavelet="db4")
