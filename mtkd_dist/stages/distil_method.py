"""The method that stage `distil` trains the student with."""

from __future__ import annotations

from mtkd_dist.config.tree import Config
from mtkd_dist.methods import MTKD, Method


def distil_method(config: Config) -> Method:
    return MTKD(levels=config.loss.levels, l1_weight=config.loss.l1_weight)
