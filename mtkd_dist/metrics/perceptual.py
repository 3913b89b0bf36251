"""LPIPS and DISTS through the package `piq` (Apache-2.0), which users install themselves: it is no dependency.

Both compare features of an image classifier (VGG16) and are distances: 0 for identical images, lower is better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from mtkd_dist.metrics.psnr_ssim import Uint8Image, from_uint8, shave

PerceptualName = Literal["lpips", "dists"]
PerceptualMetric = Callable[[Uint8Image, Uint8Image, int], float]

VGG_WINDOW = 16
"""Smallest side in pixels that is still one pixel after the four poolings of VGG16."""


class PerceptualError(ValueError):
    """The metric cannot be had on this machine; the message says why and what mends it."""


def load_perceptual(name: PerceptualName, device: torch.device) -> PerceptualMetric:
    """LPIPS (Zhang et al., CVPR 2018, VGG16) or DISTS (Ding et al., TPAMI 2020) as `piq` has them.

    `piq` imports torchvision: whoever calls this makes that possible first, where the installed builds need it
    (`allow_torchvision_import` of `mtkd_dist.models`). Its networks are downloaded once, into the cache of torch.hub.

    Returns:
        A function of (sr, hr, scale), both (H, W, 3) uint8 RGB: the distance between them without `scale` pixels on
        every side, at least 16x16 pixels of which must be left.

    Raises:
        PerceptualError: `piq` is not installed, cannot be imported, or cannot load its networks.
    """
    try:
        import piq
    except ModuleNotFoundError as error:
        if error.name != "piq":
            raise PerceptualError(f"--{name}: the package piq cannot be imported: {_in_one_line(error)}") from error
        raise PerceptualError(f"--{name} needs the package piq, which is not installed: pip install piq") from None
    except Exception as error:  # torchvision beside another build of torch fails with errors of many types
        raise PerceptualError(f"--{name}: the package piq cannot be imported: {_in_one_line(error)}") from error
    try:
        distance = {"lpips": piq.LPIPS, "dists": piq.DISTS}[name]().to(device)
    except Exception as error:  # whatever a download, a cache folder or a torn file there may raise
        raise PerceptualError(
            f"--{name}: piq cannot load the networks of {name.upper()}, which it downloads on first use: "
            f"{_in_one_line(error)}"
        ) from error

    @torch.inference_mode()
    def measure(sr: Uint8Image, hr: Uint8Image, scale: int) -> float:
        return float(distance(*(from_uint8(image, device) for image in shave(sr, hr, border=scale))))

    return measure


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
