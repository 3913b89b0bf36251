"""What is known of every trial, kept from what happens to it. Pure: times are given, nothing is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtkd_tune.rows import TrialRow

_FACTS = ("params", "latency_ms", "aggregator", "aggregator_trained", "rates")


@dataclass
class _Clock:
    """The time of one trial. A start that nobody ended (paused by pbt, a killed driver) counts up to its last sign."""

    ended_seconds: float = 0.0
    began: float | None = None
    last: float = 0.0

    def start(self, now: float) -> None:
        self.stop(self.last)
        self.began = self.last = now

    def stop(self, now: float) -> None:
        if self.began is not None:
            self.ended_seconds += now - self.began
        self.began = None

    def seconds(self) -> float:
        return self.ended_seconds + (self.last - self.began if self.began is not None else 0.0)


class Ledger:
    """Rows of all trials. Each method takes the time of a clock that only this process has."""

    def __init__(self, steps: int):
        """`steps`: of the target's training; a trial that ends before them was stopped."""
        self._steps = steps
        self._rows: dict[str, TrialRow] = {}
        self._clocks: dict[str, _Clock] = {}
        self._reports: dict[str, list[dict[str, Any]]] = {}

    def wait(self, name: str, values: Mapping[str, Any]) -> None:
        """A trial that was not known before waits for its first start."""
        if name not in self._rows:
            self._rows[name] = TrialRow(name, "waiting", dict(values), starts=0)
            self._clocks[name] = _Clock()

    def start(self, name: str, values: Mapping[str, Any], now: float) -> TrialRow:
        """The first start, or another one: after a crash, a pause, or the death of the driver."""
        self.wait(name, values)
        self._clocks[name].start(now)
        starts = self._rows[name].starts + 1
        return self._change(name, status="running", values=dict(values), starts=starts, error="")

    def report(self, name: str, result: Mapping[str, Any], now: float) -> TrialRow:
        """A validation: `step`, `psnr_y`, and of the rest of a row what is in it."""
        self._clocks[name].last = now
        known = {key: result[key] for key in _FACTS if key in result}
        score = {"step": int(result["step"]), "psnr_y": float(result["psnr_y"])}
        self._reports.setdefault(name, []).append(score)
        return self._change(name, **score, **known)

    def end(self, name: str, now: float) -> TrialRow:
        """Trained to the end, or stopped by the scheduler before it."""
        self._stop(name, now)
        return self._change(name, status="done" if self._rows[name].step >= self._steps else "stopped")

    def crash(self, name: str, error: str, now: float) -> TrialRow:
        """It will be started again."""
        self._stop(name, now)
        return self._change(name, status="waiting", error=error)

    def fail(self, name: str, error: str, now: float) -> TrialRow:
        """It will not."""
        self._stop(name, now)
        return self._change(name, status="failed", error=error)

    def rows(self) -> list[TrialRow]:
        """By name; running ones with the time up to their last report."""
        return [self._rows[name] for name in sorted(self._rows)]

    def reports(self, name: str) -> list[dict[str, Any]]:
        """ "step" and "psnr_y" of each report of a trial, in their order."""
        return list(self._reports.get(name, []))

    def state(self) -> dict[str, Any]:
        """Plain data, from which `restore` makes the same ledger in another process."""
        return {
            "rows": [dataclasses.asdict(row) for row in self._rows.values()],
            "clocks": {name: dataclasses.asdict(clock) for name, clock in self._clocks.items()},
            "reports": {name: list(reports) for name, reports in self._reports.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._rows = {row["name"]: TrialRow(**row) for row in state["rows"]}
        self._clocks = {name: _Clock(**clock) for name, clock in state["clocks"].items()}
        self._reports = {name: list(reports) for name, reports in state["reports"].items()}

    def go_on(self) -> None:
        """After `restore`, of a sweep that goes on: what was at work waits for its next start, as does what failed."""
        for name, row in self._rows.items():
            if row.status in ("running", "failed"):
                self._clocks[name].stop(self._clocks[name].last)
                self._change(name, status="waiting")

    def _stop(self, name: str, now: float) -> None:
        self._clocks[name].last = now
        self._clocks[name].stop(now)

    def _change(self, name: str, **changes: Any) -> TrialRow:
        row = dataclasses.replace(self._rows[name], **changes, seconds=self._clocks[name].seconds())
        self._rows[name] = row
        return row
