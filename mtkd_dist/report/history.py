"""The course of one training in a file, so that its curves outlive the process: a line of JSON for some steps each.

| line       | keys                                                                                             |
| ---------- | ------------------------------------------------------------------------------------------------ |
| start      | `from`: the step that training begins at, or goes on from: what lies beyond it is trained anew   |
| steps      | `step`: as many are done; `seconds` since this process began; `values`: name -> mean over the    |
|            | steps since the line before; `pools`: pool -> shares [working, starved, held back] so far, where |
|            | they are known                                                                                   |
| validation | `validation`: the record of one validation                                                       |

A training of any length has about `LINES` lines of steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mtkd_dist.config.shares import PoolShares

LINES = 1000


class History:
    """Context manager that appends to `path`. A disk that takes nothing costs the curves, never the training.

    Args:
        steps: of the whole training.
        warn: told once where the file cannot be written.
    """

    def __init__(self, path: Path, steps: int, warn: Callable[[str], None]) -> None:
        self._path = path
        self._every = -(-steps // LINES)
        self._warn = warn
        self._file: io.TextIOBase | None = None
        self._began = time.monotonic()
        self._done: int | None = None
        self._waiting: list[Mapping[str, Any]] = []
        self._pools: dict[str, list[float]] = {}

    def __enter__(self) -> History:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", buffering=1, encoding="utf-8")
            if self._file.tell():
                self._file.write("\n")  # whoever was killed may have left half a line
        except OSError as error:
            self._give_up(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write_steps()
        self._close()

    def add(self, records: Sequence[Mapping[str, Any]], pools: Mapping[str, PoolShares]) -> None:
        """Records of the training loop (`mtkd_dist.train.loop.train`) in order; `pools`: shares after the last."""
        for record in records:
            if record["step"] != self._done:
                # A group of students may have died, and another one goes on from a checkpoint.
                self._waiting = [one for one in self._waiting if one["step"] < record["step"]]
                self._write({"from": record["step"]})
            self._waiting.append(record)
            self._done = record["step"] + 1
            if record is records[-1]:
                self._pools = {name: [_short(share) for share in dataclasses.astuple(of)] for name, of in pools.items()}
            if self._done % self._every == 0:
                self._write_steps()

    def validated(self, record: Mapping[str, Any]) -> None:
        """The record of one validation (`mtkd_dist.train.validation.Validation.run`)."""
        self._write({"validation": dict(record)})

    def _write_steps(self) -> None:
        if not self._waiting:
            return
        values: dict[str, list[float]] = {}
        for record in self._waiting:
            for name, value in record.items():
                if isinstance(value, float):
                    values.setdefault(name, []).append(value)
        means = {name: _short(sum(of) / len(of)) for name, of in values.items()}
        seconds = round(time.monotonic() - self._began, 3)
        pools = {"pools": self._pools} if self._pools else {}
        self._write({"step": self._done, "seconds": seconds, "values": means} | pools)
        self._waiting, self._pools = [], {}

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
        except OSError as error:
            self._give_up(error)

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._file = None

    def _give_up(self, error: OSError) -> None:
        self._close()
        self._warn(f"the curves of this training are not kept: {self._path} cannot be written ({error})")


@dataclass(frozen=True)
class Steps:
    """What one line says of the steps before it."""

    done: int
    """So many steps are done."""
    seconds: float
    """That the training has taken by then, over all its starts and with what it did twice."""
    values: Mapping[str, float]
    pools: Mapping[str, PoolShares]


@dataclass(frozen=True)
class Past:
    """The course of a training as far as it counts: what was trained anew has replaced what was there before."""

    steps: tuple[Steps, ...] = ()
    validations: tuple[Mapping[str, Any], ...] = ()
    """In the order of their steps, one a step."""
    starts: int = 0
    """How often it began or went on."""

    @property
    def done(self) -> int:
        """Steps that are done."""
        return self.steps[-1].done if self.steps else 0

    @property
    def seconds(self) -> float:
        return self.steps[-1].seconds if self.steps else 0.0

    def curve(self, name: str) -> list[tuple[int, float]]:
        """(steps done, value) of a value of the steps or, where they have none of that name, of the validations."""
        of_steps = [(one.done, one.values[name]) for one in self.steps if name in one.values]
        return of_steps or [(one["step"], one[name]) for one in self.validations if name in one]


def read_history(path: Path) -> Past:
    """An empty one where there is no such file."""
    try:
        with path.open(encoding="utf-8") as lines:
            return parse_history(lines)
    except FileNotFoundError:
        return Past()


def parse_history(lines: Iterable[str]) -> Past:
    """Lines that are torn are left out."""
    steps: list[Steps] = []
    validations: dict[int, Mapping[str, Any]] = {}
    starts, before, last = 0, 0.0, 0.0
    for line in lines:
        try:
            found = json.loads(line)
            if "from" in found:
                starts += 1
                steps = [one for one in steps if one.done <= found["from"]]
                validations = {step: record for step, record in validations.items() if step <= found["from"]}
            elif "validation" in found:
                validations[found["validation"]["step"]] = found["validation"]
            else:
                if found["seconds"] < last:  # another process
                    before += last
                last = found["seconds"]
                pools = {name: PoolShares(*shares) for name, shares in found.get("pools", {}).items()}
                steps.append(Steps(found["step"], before + last, found["values"], pools))
        except (ValueError, KeyError, TypeError):
            continue
    return Past(tuple(steps), tuple(validations[step] for step in sorted(validations)), starts)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
