"""Resuming as one rank does it, without Ray: start, stop somewhere, start again, and end with the same weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from mtkd_dist.data import ImageStore
from mtkd_dist.pools.wire import checks_of
from mtkd_dist.train import attempt as attempt_module
from mtkd_dist.train import checkpoints as checkpoints_module
from mtkd_dist.train.attempt import Attempt
from mtkd_dist.train.audit import audit
from mtkd_dist.train.checkpoints import CheckpointError, Checkpoints
from mtkd_dist.train.consumption import ConsumptionLog, log_path, read_logs
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.state import TrainState
from tests.nets import make_job, make_store, train_alone

CPU = torch.device("cpu")


class Killed(Exception):
    """Stands for SIGKILL: nothing is tidied up but what the operating system does."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return make_store(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def job(store: ImageStore) -> StudentJob:
    return make_job(store, steps=12, checkpoint_every=3)


def start(
    job: StudentJob,
    folder: Path,
    notes: list[str],
    kill_after: int = 99,
    between: Callable[[int], None] = lambda s: None,
    skipped: dict[int, list[int]] | None = None,
) -> TrainState:
    """One attempt of one rank. `kill_after`: so many steps of it; `between`: called after each one."""
    folder.mkdir(exist_ok=True)
    attempt = Attempt(job, folder, 0, 1, CPU, notes.append)
    state = TrainState(job.build(), job.training)
    attempt.load(state)
    assert state.step == attempt.start

    def consumed(step: int, checks: Sequence[int], skipped: Sequence[int]) -> None:
        attempt.consumed(step, checks, skipped)
        between(step)
        if step + 1 - attempt.start >= kill_after:
            attempt.written()  # so that a test knows which checkpoints there are
            raise Killed

    try:
        checkpoint = functools.partial(attempt.checkpoint, state)
        train_alone(job, state, consumed=consumed, checkpoint=checkpoint, skipped=skipped)
    finally:
        attempt.close()
    return state


def killed(job: StudentJob, folder: Path, after: int) -> None:
    with pytest.raises(Killed):
        start(job, folder, [], kill_after=after)


def check(job: StudentJob, folder: Path, state: TrainState, store: ImageStore) -> None:
    """The weights are those of a training that nobody disturbed, and so says the log."""
    alone = TrainState(job.build(), job.training)
    train_alone(job, alone)
    for name, tensor in alone.result().items():
        assert torch.equal(tensor, state.result()[name]), name

    def expected(step: int) -> tuple[int, ...]:
        return tuple(c for s in job.plan.samples(step) for c in checks_of(store.cut(s, job.plan.patch)[0][None]))

    verdict = audit(read_logs(folder), expected)
    assert verdict.fine
    assert verdict.finished


def test_a_training_killed_again_and_again_ends_as_if_nothing_had_been(
    job: StudentJob, store: ImageStore, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for after in (2, 5, 4):
        killed(job, folder, after)
    notes: list[str] = []
    check(job, folder, start(job, folder, notes), store)
    assert [log.header.start for log in read_logs(folder)] == [0, 0, 3, 6]
    assert notes == []


def test_after_a_torn_checkpoint_training_goes_on_from_the_one_before_to_the_same_end(
    job: StudentJob, store: ImageStore, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    killed(job, folder, 8)
    newest = Checkpoints(folder).path(6)
    newest.write_bytes(newest.read_bytes()[:-1])
    notes: list[str] = []
    check(job, folder, start(job, folder, notes), store)
    assert read_logs(folder)[-1].header.start == 3
    assert "step-000006.pt is torn" in notes[0]


def test_a_checkpoint_that_meets_a_full_disk_is_told_and_the_end_is_the_same(
    job: StudentJob, store: ImageStore, tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def fill_disk(step: int) -> None:
        if step == 5:
            Checkpoints(folder)._temporary(6, 1).symlink_to("/dev/full")

    notes: list[str] = []
    check(job, folder, start(job, folder, notes, between=fill_disk), store)
    (note,) = notes
    assert "the checkpoint of step 6 is missing" in note
    assert "would begin at step 3" in note


def test_no_checkpoint_counts_on_a_log_that_could_not_be_written(
    job: StudentJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(log: ConsumptionLog) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ConsumptionLog, "sync", full)
    for module in (attempt_module, checkpoints_module):
        monkeypatch.setattr(module, "LAST_SECONDS", -1.0)
    notes: list[str] = []
    with pytest.raises(CheckpointError, match=r"the last checkpoint could not be written.*No space left"):
        start(job, tmp_path / "run", notes)
    assert [note for note in notes if "checkpoint of step 3 is missing" in note]
    assert Checkpoints(tmp_path / "run").steps() == []


def test_a_slot_that_was_left_out_is_written_down_and_judged_as_skipped(job: StudentJob, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start(job, folder, [], skipped={2: [1]})
    (log,) = read_logs(folder)
    assert [line.step for line in log.lines if line.skipped] == [2]
    verdict = audit([log], None)
    assert (verdict.skipped, verdict.lost) == (job.slot_size, 0)


def test_a_finished_training_that_is_started_again_does_nothing_and_stays_finished(
    job: StudentJob, store: ImageStore, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    start(job, folder, [])
    check(job, folder, start(job, folder, []), store)
    assert len(log_path(folder, 2, 0).read_bytes().splitlines()) == 1
