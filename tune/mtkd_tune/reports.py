"""Which scores of a trial are reported, and with what: each step once, also where the trial is started again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtkd_dist.stages.manifest import write_json
from mtkd_tune.population import hand_over, handed_step

REPORTED = "reported.json"
"""In the folder of a trial: the last step that was reported, and of which training: after `kill -9` of the sweep, the
name may be given to a trial with other values."""

Report = Callable[[dict[str, Any], Path | None], None]
"""Takes metrics and, with pbt, a folder to go on from, which lasts as long as the call."""


class Reports:
    """What a trial has reported, and still has to.

    Args:
        folder: of the trial.
        report: who is told.
        steps: of the target.
        rates: with pbt, of all parts of the target; empty without it.
        handed_over: whoever handed it over knows all scores up to its step. Where that is the last one, its score is
            reported once more, as after any new start.
    """

    def __init__(
        self, folder: Path, report: Report, steps: int, rates: Sequence[float], handed_over: Path | None
    ) -> None:
        self._folder = folder
        self._report = report
        self._steps = steps
        self._rates = rates
        self._first = None if handed_over is None else min(handed_step(handed_over) + 1, steps)
        self.facts: dict[str, Any] = {}
        """What is reported beside the score."""
        self.newest = -1
        """Step of the last score that was offered and had not been known to all; -1 before it."""

    def offer(self, record: dict[str, Any], checkpoints: Path) -> None:
        """A validation of the target (`Validation.run`), perhaps not for the first time, and where its checkpoints lie.

        Without pbt the last step that was reported is so once more after a new start: whoever was told may be gone.
        """
        step = record["step"]
        if self._first is None:
            self._first = _reported(self._folder / REPORTED, checkpoints)
        if step <= self.newest or step < self._first:
            return
        metrics = {"step": step, "psnr_y": record["validation_psnr_y"]} | self.facts
        if not self._rates:
            # Before it is: who dies in between reports it with the next start.
            write_json(self._folder / REPORTED, {"checkpoints": checkpoints.name, "step": step})
            self._report(metrics, None)
        else:
            done, rest = divmod(step * len(self._rates), self._steps)
            if rest:
                return  # only a training in whole parts can be made again
            rates = list(self._rates[:done])
            with tempfile.TemporaryDirectory(dir=self._folder, prefix="handed-over-") as folder:
                if not hand_over(checkpoints, step, rates, Path(folder)):
                    return
                self._report(metrics | {"rates": rates}, Path(folder))
        self.newest = step


def _reported(path: Path, checkpoints: Path) -> int:
    """0 where nothing was of the training in `checkpoints`, whose name is the digest of its inputs."""
    found = json.loads(path.read_text()) if path.exists() else {}
    return int(found["step"]) if found.get("checkpoints") == checkpoints.name else 0
