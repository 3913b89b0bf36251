"""What of a training's course is on disk, and what of it counts after interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.report.history import LINES, History, Past, parse_history, read_history

SHARES = {"students": PoolShares(0.75, 0.25, 0.0)}


def records(first: int, end: int, loss: float = 1.0) -> list[dict[str, Any]]:
    return [{"step": step, "loss": loss + step} for step in range(first, end)]


def write(path: Path, first: int, end: int, steps: int, loss: float = 1.0) -> None:
    """One start of a training of `steps` steps, which ends before step `end`."""
    with History(path, steps, pytest.fail) as history:
        history.add(records(first, end, loss), SHARES)


def test_a_course_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "course.jsonl"
    with History(file, 4, pytest.fail) as history:
        history.add([{"step": 0, "loss": 0.5, "l1_hr": 0.25}, {"step": 1, "loss": 0.25, "l1_hr": 0.125}], {})
        history.validated({"step": 2, "photos": 3, "validation_psnr_y": 31.25})
        history.add(records(2, 3), SHARES)
    past = read_history(file)
    assert past.curve("loss") == [(1, 0.5), (2, 0.25), (3, 3.0)]
    assert past.curve("l1_hr") == [(1, 0.25), (2, 0.125)]
    assert past.curve("validation_psnr_y") == [(2, 31.25)]
    assert past.curve("nothing") == []
    assert [one.pools for one in past.steps] == [{}, {}, SHARES]
    assert (past.done, past.starts) == (3, 1)


def test_there_is_no_course_where_there_is_no_file(tmp_path: Path) -> None:
    assert read_history(tmp_path / "course.jsonl") == Past()


def test_steps_that_are_made_again_replace_the_earlier_ones(tmp_path: Path) -> None:
    file = tmp_path / "course.jsonl"
    write(file, 0, 8, steps=20)
    with History(file, 20, pytest.fail) as history:
        history.validated({"step": 8, "psnr": 1.0})
    write(file, 5, 7, steps=20, loss=100.0)  # the checkpoint was after five
    past = read_history(file)
    assert past.curve("loss") == [(step, step + 0.0) for step in range(1, 6)] + [(6, 105.0), (7, 106.0)]
    assert past.validations == ()  # of step 8, which is to be reached again
    assert past.starts == 2


def test_a_validation_that_comes_late_keeps_its_place(tmp_path: Path) -> None:
    file = tmp_path / "course.jsonl"
    with History(file, 10, pytest.fail) as history:
        history.add(records(0, 6), {})
        history.validated({"step": 4, "psnr": 2.0})
        history.validated({"step": 2, "psnr": 1.0})
        history.validated({"step": 4, "psnr": 3.0})
    assert read_history(file).curve("psnr") == [(2, 1.0), (4, 3.0)]


def test_students_that_start_again_within_a_launch_go_on_in_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "course.jsonl"
    with History(file, 10, pytest.fail) as history:
        history.add(records(0, 6), {})
        history.add(records(4, 8, loss=50.0), {})
    past = read_history(file)
    assert past.curve("loss")[3:] == [(4, 4.0), (5, 54.0), (6, 55.0), (7, 56.0), (8, 57.0)]
    assert past.starts == 2


def test_time_is_that_of_all_starts_together() -> None:
    lines = [{"from": 0}, {"step": 1, "seconds": 10.0, "values": {}}, {"step": 2, "seconds": 20.0, "values": {}}]
    again = [{"from": 1}, {"step": 2, "seconds": 5.0, "values": {}}]
    past = parse_history(json.dumps(line) for line in lines + again)
    assert [(one.done, one.seconds) for one in past.steps] == [(1, 10.0), (2, 25.0)]
    assert past.seconds == 25.0


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    file = tmp_path / "course.jsonl"
    write(file, 0, 3, steps=10)
    torn = file.read_text()[:-7]
    file.write_text(torn)
    write(file, 3, 5, steps=10)
    assert [step for step, _ in read_history(file).curve("loss")] == [1, 2, 4, 5]


def test_half_a_million_steps_are_as_many_lines_as_a_thousand(tmp_path: Path) -> None:
    file = tmp_path / "course.jsonl"
    steps = 500 * LINES
    with History(file, steps, pytest.fail) as history:
        for first in range(0, steps, 5000):
            history.add([{"step": step, "loss": float(step % 2)} for step in range(first, first + 5000)], SHARES)
    past = read_history(file)
    assert len(past.steps) == LINES
    assert set(past.curve("loss")) == {(500 * n, 0.5) for n in range(1, LINES + 1)}  # means
    assert file.stat().st_size < 200_000


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=6), st.integers(1, 3000))
def test_however_often_it_was_interrupted_each_step_counts_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, starts: list[tuple[int, int]], steps: int
) -> None:
    file = tmp_path_factory.mktemp("history") / "course.jsonl"
    last: dict[int, float] = {}
    for number, (first, count) in enumerate(starts):
        first = min(first, len(last))  # a checkpoint is never beyond what was trained
        write(file, first, first + count, steps, loss=1000.0 * number)
        last = {step: loss for step, loss in last.items() if step < first}
        last |= {step: 1000.0 * number + step for step in range(first, first + count)}
    past = read_history(file)
    done = [one.done for one in past.steps]
    assert done == sorted(set(done))
    assert done[-1] == len(last)
    if steps <= LINES:
        assert past.curve("loss") == [(step + 1, pytest.approx(loss, rel=1e-5)) for step, loss in last.items()]


def test_a_disk_that_takes_nothing_is_told_of_once_and_stops_no_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    told: list[str] = []
    with History(tmp_path / "file" / "course.jsonl", 10, told.append) as history:
        history.add(records(0, 2), {})
        history.validated({"step": 2})
    (text,) = told
    assert "course.jsonl cannot be written" in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
def test_a_disk_that_becomes_full_is_told_of_once() -> None:
    told: list[str] = []
    with History(Path("/dev/full"), 10, told.append) as history:
        history.add(records(0, 5), {})
        history.validated({"step": 5})
    assert len(told) == 1
