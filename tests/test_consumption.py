"""The log that students keep, and the judgement on it: a model trains, dies and goes on; the audit must find it out."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.train.audit import Verdict, audit
from mtkd_dist.train.consumption import (
    ConsumptionLog,
    Header,
    Line,
    Log,
    claim_attempt,
    latest_attempt,
    log_path,
    read_logs,
)
from mtkd_dist.train.source import slots_of_rank

SLOTS, SLOT = 4, 2
HEADER = Header(
    attempt=1,
    rank=0,
    world_size=1,
    start=0,
    steps=12,
    slot_size=SLOT,
    batch_size=SLOTS * SLOT,
    patch=8,
    seed=0,
    dataset="d",
    plan="p",
    images="nowhere",
)


def planned(step: int) -> list[int]:
    return [100 * step + row for row in range(SLOTS * SLOT)]


def attempt(number: int, world_size: int, start: int, ends: list[int]) -> list[Log]:
    """Rank r writes down steps start..ends[r]-1."""
    logs = []
    for rank in range(world_size):
        slots = slots_of_rank(SLOTS, rank, world_size)
        rows = slice(slots[0] * SLOT, (slots[-1] + 1) * SLOT)
        lines = tuple(Line(step, tuple(planned(step)[rows])) for step in range(start, ends[rank]))
        header = dataclasses.replace(HEADER, attempt=number, rank=rank, world_size=world_size, start=start)
        logs.append(Log(header, lines))
    return logs


@st.composite
def histories(draw: st.DrawFn) -> list[list[Log]]:
    """Attempts of any number of ranks, each from a checkpoint that the effective history before it has reached."""
    attempts, reached = [], 0
    for number in range(1, draw(st.integers(1, 5)) + 1):
        world_size = draw(st.integers(1, SLOTS))
        start = draw(st.integers(0, reached))
        common = draw(st.integers(start, HEADER.steps))
        # A rank may have written down one step that another one did not get to.
        ends = [min(HEADER.steps, common + draw(st.integers(0, 1))) for _ in range(world_size)]
        attempts.append(attempt(number, world_size, start, ends))
        reached = min(ends)
    return attempts


def flat(attempts: list[list[Log]]) -> list[Log]:
    return [log for ranks in attempts for log in ranks]


def exchanged(attempts: list[list[Log]], one: Log, index: int, lines: list[Line]) -> list[Log]:
    """All logs, with `lines` in the place of a line of `one`."""
    changed = dataclasses.replace(one, lines=(*one.lines[:index], *lines, *one.lines[index + 1 :]))
    return [changed if log is one else log for log in flat(attempts)]


@given(histories())
def test_whatever_was_killed_whenever_nothing_is_lost_repeated_or_wrong(attempts: list[list[Log]]) -> None:
    verdict = audit(flat(attempts), planned)
    assert (verdict.lost, verdict.repeated, verdict.wrong, verdict.skipped) == (0, 0, 0, 0)
    assert verdict.fine
    assert verdict.samples == verdict.steps_done * HEADER.batch_size
    assert verdict.steps_done == min(
        max((line.step + 1 for line in log.lines), default=log.header.start) for log in attempts[-1]
    )
    written = sum(len(checks) for log in flat(attempts) for _, checks, _ in log.lines)
    in_progress = written - verdict.samples - verdict.recomputed
    assert 0 <= in_progress < HEADER.batch_size


@given(histories(), st.data())
def test_a_line_that_is_missing_doubled_or_of_other_pixels_is_found(
    attempts: list[list[Log]], data: st.DataObject
) -> None:
    last = data.draw(st.sampled_from(attempts[-1]))
    end = audit(flat(attempts), planned).steps_done
    inside = [index for index, line in enumerate(last.lines) if line.step < end - 1]
    if not inside:
        return
    index = data.draw(st.sampled_from(inside))
    line = last.lines[index]
    gone = data.draw(st.sets(st.integers(0, len(line.checks) - 1), min_size=1))
    fewer = tuple(check for row, check in enumerate(line.checks) if row not in gone)
    harmed = {
        ("lost", len(line.checks)): [],
        ("lost", len(gone)): [Line(line.step, fewer)],
        ("repeated", len(line.checks)): [line, line],
        ("wrong", 1): [Line(line.step, (-1, *line.checks[1:]))],
    }
    for (name, count), lines in harmed.items():
        verdict = audit(exchanged(attempts, last, index, lines), planned)
        found = {"lost": verdict.lost, "repeated": verdict.repeated, "wrong": verdict.wrong, "skipped": verdict.skipped}
        assert found == {"lost": 0, "repeated": 0, "wrong": 0, "skipped": 0} | {name: count}
        assert not verdict.fine


@given(histories(), st.data())
def test_what_a_step_was_made_without_is_skipped_only_as_far_as_the_log_says_so(
    attempts: list[list[Log]], data: st.DataObject
) -> None:
    last = data.draw(st.sampled_from(attempts[-1]))
    end = audit(flat(attempts), planned).steps_done
    inside = [index for index, line in enumerate(last.lines) if line.step < end]
    if not inside:
        return
    index = data.draw(st.sampled_from(inside))
    line = last.lines[index]
    slots = slots_of_rank(SLOTS, last.header.rank, last.header.world_size)
    skipped = data.draw(st.sets(st.sampled_from(slots), min_size=1))
    fewer = tuple(planned(line.step)[s * SLOT + row] for s in slots if s not in skipped for row in range(SLOT))
    said = audit(exchanged(attempts, last, index, [Line(line.step, fewer, tuple(skipped))]), planned)
    assert (said.skipped, said.lost, said.wrong, said.fine) == (len(skipped) * SLOT, 0, 0, True)
    silent = audit(exchanged(attempts, last, index, [Line(line.step, fewer)]), planned)
    assert (silent.skipped, silent.lost, silent.wrong, silent.fine) == (0, len(skipped) * SLOT, 0, False)
    if fewer:
        short = audit(exchanged(attempts, last, index, [Line(line.step, fewer[1:], tuple(skipped))]), planned)
        assert (short.skipped, short.lost, short.wrong, short.fine) == (len(skipped) * SLOT, 1, 0, False)


def test_a_checkpoint_that_is_ahead_of_all_that_was_consumed_means_lost_samples() -> None:
    logs = flat([attempt(1, 1, 0, [4]), attempt(2, 1, 6, [12])])
    assert audit(logs, planned).lost == 2 * HEADER.batch_size


def test_what_lies_between_the_checkpoint_and_the_death_is_recomputed() -> None:
    verdict = audit(flat([attempt(1, 2, 0, [7, 6]), attempt(2, 2, 4, [12, 12])]), planned)
    assert (verdict.recomputed, verdict.steps_done, verdict.attempts) == (3 * 4 + 2 * 4, 12, 2)
    assert verdict.finished


def test_a_verdict_says_what_it_did_not_look_at() -> None:
    text = str(audit(attempt(1, 1, 0, [3]), None))
    assert text.startswith("3 of 12 steps so far, 24 samples, 1 attempt: 0 lost, 0 repeated, pixels not compared")


def test_logs_of_different_plans_are_refused() -> None:
    logs = attempt(1, 1, 0, [3])
    other = [dataclasses.replace(log, header=dataclasses.replace(log.header, plan="q")) for log in logs]
    with pytest.raises(ValueError, match="different plans"):
        audit(logs + other, planned)


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = ConsumptionLog(tmp_path, HEADER)
    log.append(0, [1, 2])
    log.append(1, [3], skipped=[2])
    log.close()
    assert read_logs(tmp_path) == [Log(HEADER, (Line(0, (1, 2)), Line(1, (3,), (2,))))]


def test_a_torn_last_line_is_left_out_and_a_torn_line_before_it_refused(tmp_path: Path) -> None:
    log = ConsumptionLog(tmp_path, HEADER)
    log.append(0, [1])
    log.close()
    path = log_path(tmp_path, 1, 0)
    path.write_bytes(path.read_bytes() + b'{"step":1,"che')
    assert read_logs(tmp_path) == [Log(HEADER, (Line(0, (1,)),))]
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ValueError, match=r"attempt-0001-rank-00\.jsonl is no consumption log"):
        read_logs(tmp_path)


def test_an_attempt_that_died_before_its_first_word_counts_by_its_number_alone(tmp_path: Path) -> None:
    assert latest_attempt(tmp_path) == 0
    assert claim_attempt(tmp_path) == 1
    assert latest_attempt(tmp_path) == 1
    assert read_logs(tmp_path) == []


def test_lines_that_found_no_room_are_written_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ConsumptionLog(tmp_path, HEADER)
    write, room = os.write, [5, 0]

    def nearly_full(file: int, data: bytes) -> int:
        if not room:
            return write(file, data)
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: room.pop(0)])

    monkeypatch.setattr(os, "write", nearly_full)
    log.append(0, [1])
    log.append(1, [2])
    with pytest.raises(OSError, match="No space left"):
        log.sync()
    room.clear()
    log.append(2, [3])
    log.sync()
    log.close()
    assert read_logs(tmp_path) == [Log(HEADER, (Line(0, (1,)), Line(1, (2,)), Line(2, (3,))))]


def test_a_verdict_of_an_unfinished_training_is_so_far() -> None:
    assert not Verdict(3, 12, 1).finished
    assert "12 steps, " in str(Verdict(12, 12, 1))
