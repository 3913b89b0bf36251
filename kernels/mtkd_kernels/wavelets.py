"""The loss for the wavelets of PyWavelets other than Haar: strided convolutions with its filter banks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from mtkd_kernels.haar_l1_reference import DetailBands, difference, weighted_l1


def filters(wavelet: str) -> tuple[list[float], list[float]]:
    """The decomposition low-pass and high-pass filter of a discrete wavelet of PyWavelets, of equal, even length.

    Raises:
        ValueError: PyWavelets has no discrete wavelet of that name.
        ImportError: PyWavelets is not installed.
    """
    try:
        import pywt
    except ImportError as error:
        raise ImportError(f"wavelet {wavelet!r} needs PyWavelets: pip install pywavelets") from error
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ValueError(
            f"wavelet is {wavelet!r}: choose 'haar' or a name of pywt.wavelist(kind='discrete'), such as 'db2'"
        )
    bank = pywt.Wavelet(wavelet)
    return list(bank.dec_lo), list(bank.dec_hi)


def wavelet_dwt2(x: Tensor, wavelet: str, levels: int) -> tuple[Tensor, list[DetailBands]]:
    """Transform of each plane with periodic continuation: ``pywt.wavedec2(x, wavelet, mode="periodization")``.

    Args:
        x: (B, C, H, W), floating point, H and W divisible by 2**levels.
        wavelet: a discrete wavelet of PyWavelets.
        levels: number of levels, at least 1.

    Returns:
        LL of the last level and (LH, HL, HH) of the levels 1 (finest) to ``levels``, which PyWavelets calls cA and
        (cH, cV, cD); the shapes are those of :func:`mtkd_kernels.haar_dwt2`.

    Raises:
        ValueError: no such wavelet, or a side is shorter than the reach of its filter at one of the levels.
    """
    low_pass, high_pass = filters(wavelet)
    # conv2d correlates, a transform convolves: the filters are turned round.
    bank = x.new_tensor([low_pass[::-1], high_pass[::-1]])[:, None]
    reach = bank.shape[-1] // 2 - 1
    low, details = x, []
    for level in range(1, levels + 1):
        batch, channels, height, width = low.shape
        if min(height, width) < reach:
            raise ValueError(
                f"level {level} of wavelet {wavelet!r} starts from {height}x{width} (HxW), and its filter reaches "
                f"{reach} pixels beyond an edge: use larger images, fewer levels or a shorter wavelet"
            )
        planes = low.reshape(batch * channels, 1, height, width)
        along_rows = conv2d(_periodic(planes, reach, -1), bank[:, :, None, :], stride=(1, 2))
        both = conv2d(
            _periodic(along_rows, reach, -2), bank[:, :, :, None].repeat(2, 1, 1, 1), stride=(2, 1), groups=2
        ).view(batch, channels, 4, height // 2, width // 2)
        # Channels: (low along the row, then low, high along the column), (high along the row, then low, high).
        low, lh, hl, hh = both.unbind(2)
        details.append((lh, hl, hh))
    return low, details


def wavelet_l1(input: Tensor, target: Tensor, scales: Sequence[float], levels: int, wavelet: str) -> Tensor:
    """(B,): :func:`weighted_l1` of the transform of the difference; differentiable in `input`."""
    # conv2d must not fall to half precision under autocast: the difference of two alike images would drown.
    with torch.autocast(input.device.type, enabled=False):
        low, details = wavelet_dwt2(difference(input, target), wavelet, levels)
        return weighted_l1(low, details, scales)


def _periodic(x: Tensor, reach: int, axis: int) -> Tensor:
    if reach == 0:
        return x
    size = x.shape[axis]
    return torch.cat([x.narrow(axis, size - reach, reach), x, x.narrow(axis, 0, reach)], axis)
