"""How good a super-resolved image is: PSNR and SSIM as the papers of the field report them."""

from mtkd_dist.metrics.psnr_ssim import Scores, modcrop, psnr_y, rgb_to_y, score, ssim_y, to_uint8

__all__ = ["Scores", "modcrop", "psnr_y", "rgb_to_y", "score", "ssim_y", "to_uint8"]
