"""Losses for super-resolution that stand alone: they need torch, and know nothing of training loops."""

from mtkd_kernels.haar_l1 import HaarL1Loss, haar_dwt2, haar_l1_loss

__all__ = ["HaarL1Loss", "haar_dwt2", "haar_l1_loss"]
