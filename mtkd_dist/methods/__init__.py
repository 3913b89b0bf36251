"""Distillation methods, each in two halves: what the teachers compute, and the student's loss."""

from mtkd_dist.methods.aggregation import Aggregation
from mtkd_dist.methods.base import Batch, FrozenNetworks, Losses, Method
from mtkd_dist.methods.mtkd import MTKD
from mtkd_dist.methods.supervised import Supervised

__all__ = ["MTKD", "Aggregation", "Batch", "FrozenNetworks", "Losses", "Method", "Supervised"]
