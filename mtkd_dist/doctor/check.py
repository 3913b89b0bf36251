"""What one look at the machine found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    name: str
    status: Status
    found: str
    remedy: str = ""
    """What to do where it is not ok."""


def worst(checks: list[Check]) -> Status:
    """ "ok" without any."""
    order: tuple[Status, ...] = ("ok", "warning", "failed")
    return max((check.status for check in checks), key=order.index, default="ok")
