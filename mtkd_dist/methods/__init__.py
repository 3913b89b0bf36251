"""Distillation methods, each in two halves: what the teachers compute, and the student's loss."""

from mtkd_dist.methods.adapters import Equips, shipped
from mtkd_dist.methods.affinity import FeatureAffinity
from mtkd_dist.methods.aggregation import Aggregation
from mtkd_dist.methods.asked import NeedsNetworks, images_asked, values_sent
from mtkd_dist.methods.attention import AttentionTransfer
from mtkd_dist.methods.base import Batch, Crops, FrozenNetworks, Losses, Method, TeacherImages, settings_of
from mtkd_dist.methods.compared import BANDS
from mtkd_dist.methods.crosskd import CrossKD
from mtkd_dist.methods.dukd import DUKD
from mtkd_dist.methods.mean import MeanOfTeachers
from mtkd_dist.methods.mtkd import MTKD
from mtkd_dist.methods.response import ResponseKD
from mtkd_dist.methods.supervised import Supervised

__all__ = [
    "BANDS",
    "DUKD",
    "MTKD",
    "Aggregation",
    "AttentionTransfer",
    "Batch",
    "Crops",
    "CrossKD",
    "Equips",
    "FeatureAffinity",
    "FrozenNetworks",
    "Losses",
    "MeanOfTeachers",
    "Method",
    "NeedsNetworks",
    "ResponseKD",
    "Supervised",
    "TeacherImages",
    "images_asked",
    "settings_of",
    "shipped",
    "values_sent",
]
