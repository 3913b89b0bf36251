"""How good a super-resolved image is: PSNR and SSIM as the papers report them, LPIPS and DISTS through `piq`; how its
error is spread over wavelet bands, and where images differ most."""

from mtkd_dist.metrics.disagreement import Window, most_different
from mtkd_dist.metrics.error_bands import BANDS, error_bands
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
    "BANDS",
    "SSIM_WINDOW",
    "VGG_WINDOW",
    "PerceptualError",
    "PerceptualMetric",
    "PerceptualName",
    "RGBScores",
    "Scores",
    "Window",
    "error_bands",
    "from_uint8",
    "load_perceptual",
    "modcrop",
    "most_different",
    "psnr_y",
    "rgb_to_y",
    "score",
    "score_rgb",
    "shave",
    "ssim_y",
    "to_uint8",
]
