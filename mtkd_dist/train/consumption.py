"""The consumption log: which samples entered which optimizer step, written down by those who took them.

`consumed/attempt-0003-rank-00.jsonl` beside the checkpoints: a header, then a line for each optimizer step. Nothing is
read back to train: the log is evidence, and `mtkd verify-run` the judge. Its file names number the attempts, too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "consumed"


@dataclass(frozen=True)
class Header:
    """First line of a log."""

    attempt: int
    rank: int
    world_size: int
    start: int
    """First step: that of the checkpoint from which all ranks of the attempt went on."""
    steps: int
    """Steps of the whole training."""
    slot_size: int
    batch_size: int
    patch: int
    seed: int
    dataset: str
    """Digest of the photographs."""
    plan: str
    """Digest of the plan."""
    images: str
    """Folder of the decoded photographs."""


class Line(NamedTuple):
    """What a rank took of one step."""

    step: int
    checks: tuple[int, ...]
    """Of the samples in the order of the batch."""
    skipped: tuple[int, ...] = ()
    """Slots of the step that the link left out (`link.on_deadly: skip`), whose samples are not in `checks`."""


@dataclass(frozen=True)
class Log:
    """One file as read."""

    header: Header
    lines: tuple[Line, ...]
    """In the order of writing."""


def log_path(folder: Path, attempt: int, rank: int) -> Path:
    """`folder`: that of the checkpoints."""
    return folder / FOLDER / f"attempt-{attempt:04}-rank-{rank:02}.jsonl"


def latest_attempt(folder: Path) -> int:
    """0 where there is none yet."""
    found = (re.match(r"attempt-(\d+)-rank-", name) for name in _names(folder))
    return max((int(match[1]) for match in found if match), default=0)


def claim_attempt(folder: Path) -> int:
    """The next number, which nobody else can get. Called by rank 0."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    while True:
        attempt = latest_attempt(folder) + 1
        try:
            os.close(os.open(log_path(folder, attempt, 0), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        except FileExistsError:
            continue
        return attempt


class ConsumptionLog:
    """One write for each step, so that SIGKILL leaves whole lines.

    Where the disk is full, lines wait in memory and are written later: a checkpoint waits for them as well (`sync`), so
    none ever counts on what was not written down.
    """

    def __init__(self, folder: Path, header: Header) -> None:
        path = log_path(folder, header.attempt, header.rank)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        self._waiting = _line(dataclasses.asdict(header))
        self._write_waiting()

    def append(self, step: int, checks: Sequence[int], skipped: Sequence[int] = ()) -> None:
        left_out = {"skipped": list(skipped)} if skipped else {}
        self._waiting += _line({"step": step, "checks": list(checks)} | left_out)
        self._write_waiting()

    def sync(self) -> None:
        """Everything so far is on disk. Errors: OSError."""
        self._write()
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)

    def _write_waiting(self) -> None:
        try:
            self._write()
        except OSError:
            return  # `sync` will say so, before anything counts on it

    def _write(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[os.write(self._file, self._waiting) :]


def read_logs(folder: Path) -> list[Log]:
    """All logs in a folder of checkpoints, by attempt and rank. A torn last line is left out, as is a log of nothing.

    Errors: ValueError for a file that is no log.
    """
    logs = []
    for name in sorted(_names(folder)):
        path = folder / FOLDER / name
        # What follows the last line break was torn off by a crash.
        lines = path.read_bytes().split(b"\n")[:-1]
        if not lines:
            continue
        try:
            header, *steps = map(json.loads, lines)
            logs.append(Log(Header(**header), tuple(map(_read_line, steps))))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no consumption log ({type(error).__name__}: {error})") from None
    return sorted(logs, key=lambda log: (log.header.attempt, log.header.rank))


def _read_line(line: dict[str, Any]) -> Line:
    return Line(line["step"], tuple(line["checks"]), tuple(line.get("skipped", ())))


def _names(folder: Path) -> list[str]:
    return [path.name for path in (folder / FOLDER).glob("attempt-*-rank-*.jsonl")]


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
