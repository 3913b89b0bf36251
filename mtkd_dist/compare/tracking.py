"""Cells on screen and in MLflow: a child run of the comparison for each, written when its work has ended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtkd_dist.compare.work import Work, slug
from mtkd_dist.report.comparison import Cell, Scores
from mtkd_dist.report.progress import duration
from mtkd_dist.tracking.tracker import Tracker


class Cells:
    """Args:
    total: cells of the whole comparison.
    say: takes a line for the screen.
    """

    def __init__(self, tracker: Tracker, total: int, say: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._total = total
        self._say = say
        self._ended = 0

    def ended(self, work: Work | None, outcome: list[Cell] | dict[str, Scores] | str) -> None:
        """`outcome`: the cells of `work`, or under None the references; or why there are none."""
        if work is None:
            self._say(f"references: {f'failed: {outcome}' if isinstance(outcome, str) else 'scored'}")
        elif isinstance(outcome, str):
            for student in work.students:
                self._failed(work, student, outcome)
        else:
            for cell in outcome:
                assert isinstance(cell, Cell)
                self._done(cell)

    def _failed(self, work: Work, student: str, why: str) -> None:
        self._tell(work.method, student, work.seed, f"failed: {why}")
        run = self._tracker.stage(_name(work.method, student, work.seed))
        run.tags({"cell.status": f"failed: {why}"})
        run.finish("FAILED")

    def _done(self, cell: Cell) -> None:
        means = {name: np.mean(list(images.values()), axis=0) for name, images in cell.scores.items()}
        scored = ", ".join(f"{name} {psnr:.2f} dB" for name, (psnr, _) in means.items())
        self._tell(cell.method, cell.student, cell.seed, f"{scored} ({duration(cell.seconds)})")
        run = self._tracker.stage(_name(cell.method, cell.student, cell.seed))
        run.tags({"cell.status": "done"})
        run.params({"method": cell.method, "student": cell.student, "seed": cell.seed, "steps": cell.steps})
        run.metrics({f"psnr_y/{name}": float(psnr) for name, (psnr, _) in means.items()})
        run.metrics({f"ssim_y/{name}": float(ssim) for name, (_, ssim) in means.items()})
        run.metrics(
            {"seconds": cell.seconds, "bytes_per_sample": float(cell.bytes_per_sample), "params": float(cell.params)}
        )
        run.finish()

    def _tell(self, method: str, student: str, seed: int, what: str) -> None:
        self._ended += 1
        self._say(f"{self._ended}/{self._total}  {method}, {student}, seed {seed}: {what}")


def _name(method: str, student: str, seed: int) -> str:
    return f"{method}/{slug(student)}/seed-{seed}"
