"""What the pools of a training have to tell its driver: read from the board and the links, passed on as updates."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.pools.board import answer_of_board
from mtkd_dist.pools.cluster import spilled_bytes
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.teacher_pool import TeacherPool
from mtkd_dist.train.worker import FATAL_SECONDS

SPILLED_SECONDS = 10.0
"""Ray is asked this often what it has spilled: every node has to answer."""


@dataclass(frozen=True)
class Update:
    """What the driver learned since the last one."""

    records: list[dict[str, Any]]
    """One for each step; see `mtkd_dist.train.loop.train`."""
    teachers: PoolShares | None
    """None where there is no teacher pool."""
    link: dict[str, Any]
    """What the link says of itself, and "bytes_spilled" by Ray since this training began."""
    validations: list[dict[str, Any]]
    """One for each validation; see `mtkd_dist.train.validation.Validation.run`."""
    notes: list[str]
    """Sentences for the screen."""
    students: PoolShares | None = None
    """Of the rank that waited longest so far: the others wait for it too, in the sum of the gradients, where it looks
    like work. None before the first."""


class News:
    """What board and links have to tell since the last time."""

    def __init__(self, board: ActorHandle, teachers: TeacherPool | None, ranks: int) -> None:
        self._board = board
        self._teachers = teachers
        self._read = 0
        self._stats: dict[str, Any] = {}
        self.begun = False
        """Whether students have begun to train."""
        self._asked: set[int] = set()
        self._answered: set[int] = set()
        self._failure = Failure(ranks)
        self._students = StudentShares()
        self._spilled = _Spilled()

    def pass_on(self, on_update: Callable[[Update], None]) -> None:
        """Errors: TrainingFailed, when a student met what a restart cannot mend, or when the board is dead."""
        try:
            records = answer_of_board(self._board.read.remote(self._read), timeout=10)
        except (ray.exceptions.RayError, TimeoutError):
            return  # what was not read is read the next time
        stats = self._link_stats()
        self._read += len(records)
        if stats and (spilled := self._spilled.bytes()) is not None:
            stats["bytes_spilled"] = spilled
        self._students.add(records)
        self.begun = self.begun or any("begun" in record for record in records)
        self._asked |= {record["asked"] for record in records if "asked" in record}
        self._answered |= {record["answered"] for record in records if "answered" in record}
        update = Update(
            [record for record in records if "loss" in record],
            stats.get("shares"),
            stats,
            [record["validation"] for record in records if "validation" in record],
            [record["note"] for record in records if "note" in record],
            self._students.longest_wait(),
        )
        if update.records or update.validations or update.notes:
            on_update(update)
        if message := self._failure.decide([r for r in records if "fatal" in r], time.monotonic()):
            raise TrainingFailed(message)

    def _link_stats(self) -> dict[str, Any]:
        """As they were last where a link does not answer, so that it hides no news; empty before the first."""
        if self._teachers is not None:
            with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                self._stats = self._teachers.stats(timeout=10)
        return self._stats

    def say(self, on_update: Callable[[Update], None], note: str) -> None:
        on_update(Update([], None, {}, [], [note]))

    def unanswered(self) -> list[int]:
        """Steps whose validation was asked for and is not on the board."""
        return sorted(self._asked - self._answered)


class StudentShares:
    """Where the time of all ranks went, from what they post."""

    def __init__(self) -> None:
        self._of_rank: dict[int, PoolShares] = {}

    def add(self, records: list[dict[str, Any]]) -> None:
        """Records with "students" (PoolShares so far), of rank 0, or of "rank" where it is one of "of"."""
        for record in records:
            if "students" in record:
                self._of_rank[record.get("rank", 0)] = record["students"]
            if "of" in record:
                # An elastic group may have become smaller.
                self._of_rank = {rank: shares for rank, shares in self._of_rank.items() if rank < record["of"]}

    def longest_wait(self) -> PoolShares | None:
        """Of the rank that waited longest: the others wait for it in the sum of the gradients, and call that work."""
        return max(self._of_rank.values(), key=lambda shares: shares.starved, default=None)


class _Spilled:
    """What Ray has spilled since this was made; asked for every few seconds, told in between."""

    def __init__(self) -> None:
        self._before = spilled_bytes()
        self._now = self._before
        self._next_at = time.monotonic() + SPILLED_SECONDS

    def bytes(self) -> int | None:
        if self._before is None:
            return None
        if time.monotonic() >= self._next_at:
            self._now = spilled_bytes()
            self._next_at = time.monotonic() + SPILLED_SECONDS
        return None if self._now is None else self._now - self._before


class Failure:
    """Which of the ranks' last words are told. A step that is not finite fails all ranks, but few know why."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._words: list[dict[str, Any]] = []
        self._since = 0.0

    def decide(self, records: list[dict[str, Any]], now: float) -> str | None:
        """Records {"fatal": text, "knows_why": bool}, `now` in seconds -> the text to end with, or None to go on.

        The first rank that knows why; without one the first of all, once every rank has spoken or had the time to.
        """
        if records and not self._words:
            self._since = now
        self._words += records
        for record in self._words:
            if record["knows_why"]:
                return str(record["fatal"])
        if self._words and (len(self._words) >= self._ranks or now - self._since > FATAL_SECONDS):
            return str(self._words[0]["fatal"])
        return None
