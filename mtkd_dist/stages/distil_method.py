"""The method that stage `distil` trains the student with."""

from __future__ import annotations

import dataclasses

from mtkd_dist.config.tree import Config
from mtkd_dist.methods import MTKD, Method


def distil_method(config: Config) -> Method:
    return MTKD(**dataclasses.asdict(config.loss))
