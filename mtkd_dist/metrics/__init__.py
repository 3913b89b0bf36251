"""How good a super-resolved image is: PSNR and SSIM as the papers report them, LPIPS and DISTS through `piq`."""

from mtkd_dist.metrics.perceptual import VGG_WINDOW, PerceptualError, PerceptualMetric, PerceptualName, load_perceptual
from mtkd_dist.metrics.psnr_ssim import (
    SSIM_WINDOW,
    RGBScores,
    Scores,
    from_uint8,
    modcrop,
    psnr_y,
    rgb_to_y,
    score,
    score_rgb,
    shave,
    ssim_y,
    to_uint8,
)

__all__ = [
    "SSIM_WINDOW",
    "VGG_WINDOW",
    "PerceptualError",
    "PerceptualMetric",
    "PerceptualName",
    "RGBScores",
    "Scores",
    "from_uint8",
    "load_perceptual",
    "modcrop",
    "psnr_y",
    "rgb_to_y",
    "score",
    "score_rgb",
    "shave",
    "ssim_y",
    "to_uint8",
]
