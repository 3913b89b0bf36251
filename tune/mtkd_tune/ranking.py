"""Which trial is the best, and in which order trials are told. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mtkd_tune.rows import TrialRow
from mtkd_tune.tree import Objective

HIGHER_IS_BETTER: dict[Objective, bool] = {"psnr_y": True, "params": False, "latency_ms": False}
_ORDER = ("done", "stopped", "running", "waiting", "failed")


@dataclass(frozen=True)
class Best:
    row: TrialRow
    note: str = ""
    """What must be known of the choice; empty where the trial was trained to the end."""


def cost_of(row: TrialRow, objective: Objective) -> float:
    """The objective as a number of which less is better; infinite where it is not known or not finite."""
    value = getattr(row, objective)
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if HIGHER_IS_BETTER[objective] else value


def contenders(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> list[TrialRow]:
    """Trials that may be compared: those that are done; where none is, those that the scheduler stopped.

    Scores of a stopped trial come from fewer steps, so the two never mix. Only trials of which all `objectives` are
    known; by their names.
    """
    known = [row for row in rows if all(math.isfinite(cost_of(row, one)) for one in objectives)]
    for status in ("done", "stopped"):
        if any(row.status == status and math.isfinite(cost_of(row, "psnr_y")) for row in rows):
            return sorted((row for row in known if row.status == status), key=lambda row: row.name)
    return []


def best(rows: Sequence[TrialRow], objectives: Sequence[Objective] = ("psnr_y",)) -> Best | None:
    """The trial of the highest `psnr_y`; of equal ones, the one that the other objectives prefer. None: none counts.

    A stopped trial counts only where none is done, and the note says so. Failed and unfinished ones never count.
    """
    first_psnr: list[Objective] = ["psnr_y", *(one for one in objectives if one != "psnr_y")]
    order = sorted(contenders(rows, ["psnr_y"]), key=lambda row: (*(cost_of(row, o) for o in first_psnr), row.name))
    if not order:
        return None
    first = order[0]
    if first.status == "done":
        return Best(first)
    return Best(
        first,
        f"No trial was trained to the end: {first.name} is the best of those that were stopped, as scored at step "
        f"{first.step}.",
    )


def ranked(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Done trials first, then stopped, running, waiting, failed; within each the highest score first."""
    return sorted(rows, key=lambda row: (_ORDER.index(row.status), cost_of(row, "psnr_y"), row.name))
