"""Distillation methods, each in two halves: what the teachers compute, and the student's loss."""

from mtkd_dist.methods.aggregation import Aggregation
from mtkd_dist.methods.asked import NeedsNetworks, images_asked
from mtkd_dist.methods.base import Batch, FrozenNetworks, Losses, Method, TeacherImages
from mtkd_dist.methods.mtkd import BANDS, MTKD
from mtkd_dist.methods.supervised import Supervised

__all__ = [
    "BANDS",
    "MTKD",
    "Aggregation",
    "Batch",
    "FrozenNetworks",
    "Losses",
    "Method",
    "NeedsNetworks",
    "Supervised",
    "TeacherImages",
    "images_asked",
]
