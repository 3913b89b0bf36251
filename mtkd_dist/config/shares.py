"""How a pool spent its time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolShares:
    """Fractions of a pool's time since it began to work, each in 0..1. They add up to 1; all are 0 before that."""

    working: float
    """computing"""
    starved: float
    """waiting for input"""
    held_back: float
    """able to go on, but not let: a teacher by a full window, a student by a checkpoint"""
