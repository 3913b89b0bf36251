"""How a pool spent its time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolShares:
    """Fractions of wall time, each in 0..1; what they leave of 1 is neither (start-up, checkpoints)."""

    working: float
    """computing"""
    starved: float
    """waiting for input"""
    held_back: float
    """waiting because the next pool has not taken the output yet"""
