"""The file that keeps, in order, the events that MLflow has not taken yet."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mtkd_dist.tracking.events import Event


class Spool:
    """One JSON event a line in `path`; the file exists only while it holds something. Not thread-safe."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def pending(self) -> bool:
        return self.path.exists()

    def append(self, events: Sequence[Event]) -> None:
        """Adds events at the end; raises OSError when the disk does not take them."""
        if events:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_lines(events))

    def read(self) -> tuple[list[Event], list[str]]:
        """The events in order, and the lines that are none (a killed process can leave half a line)."""
        events: list[Event] = []
        broken: list[str] = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
                events.append({**event, "kind": event["kind"], "run": event["run"]})
            except (ValueError, TypeError, KeyError):
                broken.append(line)
        return events, broken

    def replace(self, events: Sequence[Event]) -> None:
        """Keeps only these events; the file is never half written."""
        if not events:
            self.path.unlink(missing_ok=True)
            return
        fresh = self.path.with_name(f"{self.path.name}.new")
        fresh.write_text(_lines(events), encoding="utf-8")
        os.replace(fresh, self.path)


def _lines(events: Sequence[Event]) -> str:
    return "".join(f"{json.dumps(event)}\n" for event in events)
