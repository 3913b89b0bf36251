from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.models import build_network, save_network
from mtkd_dist.train import checkpoints as module
from mtkd_dist.train.checkpoints import (
    BEST,
    DIGEST_BYTES,
    CheckpointError,
    Checkpoints,
    CheckpointWriter,
    Superseded,
    expired,
)
from mtkd_dist.train.consumption import claim_attempt, latest_attempt
from tests.nets import TINY

CPU = torch.device("cpu")


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "weights": torch.full((1000,), float(step))}


def written(folder: Path, *steps: int) -> Checkpoints:
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.write(step, state_of(step), 1, lambda: None)
    return checkpoints


def writer_of(checkpoints: Checkpoints, notes: list[str], keep: int = 2) -> CheckpointWriter:
    return CheckpointWriter(checkpoints, keep, 1, lambda: None, notes.append, start=0)


def make_disk_full(checkpoints: Checkpoints, step: int) -> Path:
    """What is written for the checkpoint of `step` meets ENOSPC."""
    temporary = checkpoints.path(step).with_suffix(".pt.1.tmp")
    temporary.symlink_to("/dev/full")
    return temporary


@given(st.sets(st.integers(0, 99)), st.integers(1, 5), st.none() | st.integers(0, 99))
def test_the_newest_and_the_best_are_kept_and_nothing_else(steps: set[int], keep: int, best: int | None) -> None:
    kept = steps - expired(steps, keep, best)
    assert kept == set(sorted(steps)[-keep:]) | ({best} & steps)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 4, 8)
    assert checkpoints.newest(pytest.fail) == 8
    loaded = checkpoints.load(8, CPU)
    assert loaded["step"] == 8
    assert torch.equal(loaded["weights"], state_of(8)["weights"])


@pytest.mark.parametrize("harm", ["torn", "flipped", "no digest", "empty"])
def test_of_a_torn_or_corrupted_checkpoint_the_one_before_is_taken_and_said(tmp_path: Path, harm: str) -> None:
    checkpoints = written(tmp_path, 4, 8)
    path = checkpoints.path(8)
    data = path.read_bytes()
    harmed = {
        "torn": data[:-100],
        "flipped": data[:500] + bytes([data[500] ^ 1]) + data[501:],
        "no digest": data[:-DIGEST_BYTES],
        "empty": b"",
    }[harm]
    path.write_bytes(harmed)
    notes: list[str] = []
    assert checkpoints.newest(notes.append) == 4
    (note,) = notes
    assert "step-000008.pt is torn or corrupted" in note
    assert "step-000008.pt.torn" in note
    # A disk that reads it again later must not bring it back: the steps after 4 are done anew.
    assert checkpoints.steps() == [4]
    assert (tmp_path / "step-000008.pt.torn").read_bytes() == harmed


def test_a_torn_checkpoint_goes_when_training_has_come_as_far_again(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 4, 8)
    checkpoints.path(8).write_bytes(b"")
    checkpoints.newest(lambda note: None)
    torn = tmp_path / "step-000008.pt.torn"
    checkpoints.sweep()
    checkpoints.prune(keep=1)
    assert torn.exists()
    written(tmp_path, 8).prune(keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000008.pt"]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EMFILE])
def test_a_checkpoint_that_cannot_be_read_now_is_told_and_none_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    checkpoints = written(tmp_path, 4, 8)
    before = sorted(tmp_path.iterdir())

    def broken(path: Path, mode: str) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        with pytest.raises(OSError, match=r"step-000008\.pt cannot be read .*the same command tries again") as error:
            checkpoints.newest(pytest.fail)
    assert error.value.errno == number
    assert sorted(tmp_path.iterdir()) == before
    assert checkpoints.newest(pytest.fail) == 8


def test_one_rename_brings_weights_and_digest_so_a_late_writer_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)

    def stalled() -> None:
        checkpoints.write(4, state_of(5), 2, lambda: None)

    checkpoints.write(4, state_of(4), 1, stalled)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004.pt"]
    assert checkpoints.newest(pytest.fail) == 4


def test_words_that_nobody_takes_end_the_training_and_do_not_hang_it(tmp_path: Path) -> None:
    def deaf(note: str) -> None:
        raise ConnectionError("the board is gone")

    checkpoints = Checkpoints(tmp_path)
    writer = CheckpointWriter(checkpoints, 2, 1, lambda: None, deaf, start=0)
    make_disk_full(checkpoints, 4)
    writer.save(4, state_of(4))
    for step in (8, 12):
        with pytest.raises(ConnectionError, match="the board is gone"):
            writer.save(step, state_of(step))


def test_a_temporary_file_of_a_killed_writer_is_no_checkpoint_and_is_swept_away(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 4)
    (tmp_path / "step-000008.pt.1.tmp").write_bytes(b"half")
    assert checkpoints.newest(pytest.fail) == 4
    checkpoints.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004.pt"]


def test_the_checkpoint_at_the_best_validation_outlives_newer_ones(tmp_path: Path) -> None:
    save_network(tmp_path / BEST, build_network(TINY, 2), {"network": TINY, "scale": "2", "step": "4"})
    checkpoints = written(tmp_path, 2, 4, 6, 8)
    checkpoints.prune(keep=1)
    assert checkpoints.steps() == [4, 8]


def test_a_checkpoint_holds_the_state_as_it_was_when_it_was_asked_for(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    writer = writer_of(checkpoints, [])
    state = state_of(1)
    writer.save(1, state)
    state["weights"].zero_()
    writer.save(2, state_of(2), last=True)
    assert torch.equal(checkpoints.load(1, CPU)["weights"], state_of(1)["weights"])


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_one_waits(tmp_path: Path) -> None:
    began, go_on = threading.Event(), threading.Event()

    def may_write() -> None:
        began.set()
        assert go_on.wait(60)

    checkpoints = Checkpoints(tmp_path)
    writer = CheckpointWriter(checkpoints, 2, 1, may_write, pytest.fail, start=0)
    writer.save(1, state_of(1))  # returns, although it cannot be finished
    assert began.wait(60)
    assert checkpoints.steps() == []
    second = threading.Thread(target=writer.save, args=(2, state_of(2)))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    second.join(60)
    writer.save(3, state_of(3), last=True)
    assert checkpoints.steps() == [2, 3]


def test_a_full_disk_costs_a_checkpoint_which_is_told_and_no_training(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    notes: list[str] = []
    writer = writer_of(checkpoints, notes)
    writer.save(4, state_of(4))
    temporary = make_disk_full(checkpoints, 8)
    writer.save(8, state_of(8))
    writer.save(12, state_of(12), last=True)
    (note,) = notes
    assert "checkpoint of step 8 is missing" in note
    assert "No space left" in note
    assert "would begin at step 4" in note
    assert checkpoints.steps() == [4, 12]
    assert not temporary.is_symlink()


def test_the_last_checkpoint_is_tried_until_there_is_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    notes: list[str] = []
    make_disk_full(checkpoints, 8)  # gone after the first try, which removes the file
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    writer_of(checkpoints, notes).save(8, state_of(8), last=True)
    assert checkpoints.newest(pytest.fail) == 8
    (note,) = notes
    assert "the last checkpoint is not written yet" in note


def test_a_last_checkpoint_that_finds_no_room_fails_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = written(tmp_path, 4)
    writer = CheckpointWriter(checkpoints, 2, 1, lambda: None, lambda note: None, start=4)
    make_disk_full(checkpoints, 8)
    monkeypatch.setattr(module, "LAST_SECONDS", -1.0)
    with pytest.raises(CheckpointError, match=r"the last checkpoint \(step 8\).*No space left.*goes on from step 4"):
        writer.save(8, state_of(8), last=True)


def test_a_student_of_an_earlier_attempt_adds_no_checkpoint_any_more(tmp_path: Path) -> None:
    mine = claim_attempt(tmp_path)

    def may_write() -> None:
        if latest_attempt(tmp_path) != mine:
            raise Superseded

    checkpoints = Checkpoints(tmp_path)
    writer = CheckpointWriter(checkpoints, 2, mine, may_write, pytest.fail, start=0)
    writer.save(4, state_of(4))
    while not checkpoints.steps():
        time.sleep(0.01)
    assert claim_attempt(tmp_path) == mine + 1
    writer.save(8, state_of(8))
    with pytest.raises(Superseded):
        writer.save(12, state_of(12), last=True)
    assert checkpoints.steps() == [4]


def test_no_two_attempts_get_the_same_number(tmp_path: Path) -> None:
    numbers: list[int] = []
    threads = [threading.Thread(target=lambda: numbers.append(claim_attempt(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 9))
