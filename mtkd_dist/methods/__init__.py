"""Distillation methods, each in two halves: what the teachers compute, and the student's loss."""

from mtkd_dist.methods.adapters import Equips, shipped
from mtkd_dist.methods.affinity import FeatureAffinity
from mtkd_dist.methods.aggregation import Aggregation
from mtkd_dist.methods.asked import NeedsNetworks, images_asked, values_sent, values_sent_by
from mtkd_dist.methods.attention import AttentionTransfer
from mtkd_dist.methods.base import (
    Batch,
    ChecksNetworks,
    Crops,
    FrozenNetworks,
    Losses,
    Method,
    TeacherImages,
    Unsuitable,
    settings_of,
)
from mtkd_dist.methods.compared import BANDS
from mtkd_dist.methods.crosskd import CrossKD
from mtkd_dist.methods.dukd import DUKD
from mtkd_dist.methods.featured import Featured
from mtkd_dist.methods.mean import MeanOfTeachers
from mtkd_dist.methods.mtkd import MTKD
from mtkd_dist.methods.response import ResponseKD
from mtkd_dist.methods.supervised import Supervised
from mtkd_dist.methods.taps import LEVELS, is_listening

__all__ = [
    "BANDS",
    "DUKD",
    "LEVELS",
    "MTKD",
    "Aggregation",
    "AttentionTransfer",
    "Batch",
    "ChecksNetworks",
    "Crops",
    "CrossKD",
    "Equips",
    "FeatureAffinity",
    "Featured",
    "FrozenNetworks",
    "Losses",
    "MeanOfTeachers",
    "Method",
    "NeedsNetworks",
    "ResponseKD",
    "Supervised",
    "TeacherImages",
    "Unsuitable",
    "images_asked",
    "is_listening",
    "settings_of",
    "shipped",
    "values_sent",
    "values_sent_by",
]
