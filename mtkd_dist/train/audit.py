"""What really entered the final weights, worked out from the consumption logs of a training. Pure.

Attempt k+1 goes on from a checkpoint after s steps: what attempt k consumed from step s on is *recomputed*, for it is
not in the weights that are handed on. What is left is the effective history, in which each sample of each step must
occur exactly once.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtkd_dist.train.consumption import Header, Line, Log
from mtkd_dist.train.source import slots_of_rank

Checks = Sequence[int]


@dataclass(frozen=True)
class Verdict:
    """Counts of samples, except where it says steps."""

    steps_done: int
    """Of the effective history, by all ranks."""
    steps: int
    attempts: int
    samples: int = 0
    """In the effective history."""
    lost: int = 0
    repeated: int = 0
    recomputed: int = 0
    skipped: int = 0
    """Of slots that the log says were in quarantine: their step was made without them."""
    wrong: int = 0
    """With other pixels than the plan says."""
    compared: bool = False
    """Whether the pixels were looked at."""

    @property
    def fine(self) -> bool:
        return not (self.lost or self.repeated or self.wrong)

    @property
    def finished(self) -> bool:
        return self.steps_done == self.steps

    def __str__(self) -> str:
        done = f"{self.steps} steps" if self.finished else f"{self.steps_done} of {self.steps} steps so far"
        pixels = f"{self.wrong} wrong" if self.compared else "pixels not compared"
        return (
            f"{done}, {self.samples} samples, {self.attempts} attempt{'s' if self.attempts != 1 else ''}: {self.lost} "
            f"lost, {self.repeated} repeated, {pixels} ({self.recomputed} recomputed, {self.skipped} skipped)"
        )


@dataclass(frozen=True)
class _Stretch:
    """Steps first..last-1 of the effective history, which one attempt made."""

    attempt: int
    first: int
    last: int


def audit(logs: Sequence[Log], expected: Callable[[int], Checks] | None) -> Verdict:
    """Judge all logs of one training (at least one).

    Args:
        expected: step -> checks of the whole batch as the plan says; None where the photographs are not at hand.

    Errors: ValueError for logs of different plans.
    """
    header = logs[-1].header
    if len({log.header.plan for log in logs}) > 1:
        raise ValueError("these logs are of different plans, and cannot be of one training")
    by_attempt: dict[int, dict[int, Log]] = defaultdict(dict)
    for log in logs:
        by_attempt[log.header.attempt][log.header.rank] = log
    history = _history([ranks for _, ranks in sorted(by_attempt.items())])
    counts: dict[str, int] = defaultdict(int)
    end = 0
    for stretch in history:
        counts["lost"] += (stretch.first - end) * header.batch_size
        end = stretch.last
        for rank, log in by_attempt[stretch.attempt].items():
            _judge(log, rank, stretch, expected, counts)
    effective = {stretch.attempt: stretch for stretch in history}
    last = max(by_attempt)
    for attempt, ranks in by_attempt.items():
        kept = effective.get(attempt)
        for step, checks, _ in itertools.chain.from_iterable(log.lines for log in ranks.values()):
            ahead = attempt == last and (kept is None or step >= kept.last)
            if not ahead and (kept is None or step >= kept.last):
                counts["recomputed"] += len(checks)
    return Verdict(end, header.steps, len(by_attempt), compared=expected is not None, **counts)


def _history(attempts: Sequence[dict[int, Log]]) -> list[_Stretch]:
    history: list[_Stretch] = []
    for ranks in attempts:
        header = next(iter(ranks.values())).header
        # What earlier attempts did from there on is recomputed.
        history = [_Stretch(s.attempt, s.first, min(s.last, header.start)) for s in history if s.first < header.start]
        history.append(_Stretch(header.attempt, header.start, _common_end(header, ranks)))
    return [stretch for stretch in history if stretch.last > stretch.first]


def _common_end(header: Header, ranks: dict[int, Log]) -> int:
    """The step before which all ranks have something: a step is made by all of them or by none."""
    ends = [
        max((line.step + 1 for line in ranks[rank].lines), default=header.start) if rank in ranks else header.start
        for rank in range(header.world_size)
    ]
    return max(header.start, min(ends))


def _judge(
    log: Log, rank: int, stretch: _Stretch, expected: Callable[[int], Checks] | None, counts: dict[str, int]
) -> None:
    """Count what one rank did of a stretch."""
    header = log.header
    slots = slots_of_rank(header.batch_size // header.slot_size, rank, header.world_size)
    taken: dict[int, Line] = {}
    for line in log.lines:
        if line.step in taken or line.step < stretch.first:
            counts["repeated"] += len(line.checks)
        elif line.step < stretch.last:
            taken[line.step] = line
    for step in range(stretch.first, stretch.last):
        found = taken.get(step, Line(step, ()))
        rows = [
            slot * header.slot_size + row
            for slot in slots
            if slot not in found.skipped
            for row in range(header.slot_size)
        ]
        counts["samples"] += len(found.checks)
        counts["skipped"] += len(slots) * header.slot_size - len(rows)
        counts["lost"] += max(0, len(rows) - len(found.checks))
        counts["repeated"] += max(0, len(found.checks) - len(rows))
        if expected is not None and found.checks:
            whole = expected(step)
            counts["wrong"] += _wrong(found.checks, [whole[row] for row in rows])


def _wrong(checks: Checks, expected: Checks) -> int:
    """How many of `checks` are none of the expected ones, or in another place where none is missing."""
    if len(checks) >= len(expected):
        return sum(found != wanted for found, wanted in zip(checks, expected, strict=False))
    return (Counter(checks) - Counter(expected)).total()
