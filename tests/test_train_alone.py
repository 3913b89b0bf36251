"""A training in the calling process: the same weights, log and scores as in a pool of one worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.data import ImageStore
from mtkd_dist.models import read_metadata
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.placement import Layout
from mtkd_dist.train import stopping
from mtkd_dist.train.alone import train_alone
from mtkd_dist.train.audit import audit
from mtkd_dist.train.checkpoints import Checkpoints
from mtkd_dist.train.consumption import read_logs
from mtkd_dist.train.news import Update
from mtkd_dist.train.source import LocalSource, Share
from mtkd_dist.train.stopping import Saved
from mtkd_dist.train.trainer import run_training
from mtkd_dist.train.validation import ValidationJob
from tests.nets import make_job, make_store

Records = list[dict[str, Any]]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageStore, ImageStore]:
    """To train on, and held out."""
    return make_store(tmp_path_factory.mktemp("photos")), make_store(tmp_path_factory.mktemp("held-out"), 1, side=40)


class Alone:
    """A job, what it says, and its scores."""

    def __init__(self, stores: tuple[ImageStore, ImageStore], folder: Path, **training: object) -> None:
        settings: dict[str, Any] = {"steps": 6, "checkpoint_every": 3, "validate_every": 2} | training
        self.job = make_job(stores[0], **settings)
        self.folder = folder
        self.validation = ValidationJob(self.job, stores[1].folder, (), folder / "best.safetensors", {})
        self.records: Records = []
        self.scores: Records = []
        self.notes: list[str] = []

    def train(self, **given: Any) -> dict[str, torch.Tensor]:
        given = {"validated": self.scores.append, "say": self.notes.append, "post": self.records.extend} | given
        return train_alone(self.job, self.folder, self.validation, **given)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("ray_cluster")
def test_weights_and_scores_are_those_of_a_pool_of_one_worker(
    stores: tuple[ImageStore, ImageStore], tmp_path: Path
) -> None:
    alone, pool = (Alone(stores, tmp_path / name, learning_rate=1e-3) for name in ("alone", "pool"))
    updates: list[Update] = []
    layout = Layout(pool.job.pool, None)
    weights = run_training(
        pool.job, None, layout, LinkConfig(slot_size=2), pool.folder, updates.append, pool.validation
    )
    assert equal(alone.train(), weights)
    assert alone.scores == [record for update in updates for record in update.validations]
    assert [record["loss"] for record in alone.records] == [r["loss"] for update in updates for r in update.records]


class Killed(BaseException):
    pass


def test_one_that_was_killed_goes_on_to_the_same_end_and_its_log_says_so(
    stores: tuple[ImageStore, ImageStore], tmp_path: Path
) -> None:
    whole = Alone(stores, tmp_path / "whole")
    expected = whole.train()

    def kill(record: dict[str, Any]) -> None:
        if record["step"] == 4:
            raise Killed

    stopped = Alone(stores, tmp_path / "stopped")
    with pytest.raises(Killed):
        stopped.train(validated=kill)
    again = Alone(stores, tmp_path / "stopped")
    assert equal(again.train(), expected)
    assert [record["step"] for record in again.records] == [3, 4, 5]
    assert again.scores == whole.scores[1:]
    verdict = audit(read_logs(tmp_path / "stopped"), None)
    assert (verdict.fine, verdict.finished, verdict.attempts, verdict.recomputed) == (True, True, 2, 4)


def test_one_that_is_done_is_only_scored_once_more(stores: tuple[ImageStore, ImageStore], tmp_path: Path) -> None:
    first, again = (Alone(stores, tmp_path / "run") for _ in range(2))
    assert equal(first.train(), again.train())
    assert again.records == []
    assert again.scores == first.scores[-1:]


def test_a_score_is_told_once_the_checkpoint_of_its_step_is_on_disk(
    stores: tuple[ImageStore, ImageStore], tmp_path: Path
) -> None:
    alone, there = Alone(stores, tmp_path / "run", checkpoint_every=2), []  # type: ignore[var-annotated]
    alone.train(validated=lambda record: there.append(Checkpoints(alone.folder).newest(alone.notes.append)))
    assert there == [2, 4, 6]


def test_a_network_that_answers_no_numbers_costs_the_score_with_a_note_and_not_the_training(
    stores: tuple[ImageStore, ImageStore], tmp_path: Path
) -> None:
    alone = Alone(stores, tmp_path / "run", steps=1, learning_rate=1e30, ema=0.0)
    alone.train()
    assert alone.scores == []
    assert any("the validation after step 1 failed" in note for note in alone.notes)


def test_the_best_weights_are_handed_on_where_they_are_wanted(
    stores: tuple[ImageStore, ImageStore], tmp_path: Path
) -> None:
    # A rate that ruins in the second half what the first has learned.
    alone = Alone(stores, tmp_path / "run", result="best", rates=[1e-3, 1.0])
    best = alone.train()
    step = max(alone.scores, key=lambda record: record["validation_psnr_y"])["step"]
    assert step == int(read_metadata(alone.validation.best)["step"]) == 2
    assert equal(best, Alone(stores, tmp_path / "until", steps=2, rates=[1e-3]).train())
    nothing = Alone(stores, tmp_path / "nothing", steps=1, learning_rate=1e30, ema=0.0, result="best")
    with pytest.raises(TrainingFailed, match=r"no validation in .* came to a score"):
        nothing.train()


def test_batches_come_from_whom_they_are_asked_of(stores: tuple[ImageStore, ImageStore], tmp_path: Path) -> None:
    asked: list[tuple[int, list[int], str]] = []

    def source(attempt: int, share: Share, device: torch.device) -> LocalSource:
        asked.append((attempt, share.slots, device.type))
        return LocalSource(share, device)

    one, other = Alone(stores, tmp_path / "own"), Alone(stores, tmp_path / "files")
    assert equal(one.train(source=source), other.train())
    assert asked == [(1, [0, 1], "cpu")]


def test_one_that_is_asked_to_stop_saves_where_it_is_and_goes_on_to_the_same_end(
    stores: tuple[ImageStore, ImageStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "EXCHANGE_SECONDS", 0)  # it looks after every step
    whole = Alone(stores, tmp_path / "whole")
    expected = whole.train()
    stopped = Alone(stores, tmp_path / "stopped")
    with pytest.raises(Saved) as saved:
        # After step 5, where no checkpoint is due.
        stopped.train(asked_to_stop=lambda: bool(stopped.scores) and stopped.scores[-1]["step"] == 4)
    assert (saved.value.step, saved.value.steps) == (5, 6)
    assert Checkpoints(stopped.folder).steps() == [3, 5]
    assert [record["step"] for record in stopped.records] == [0, 1, 2, 3, 4]
    again = Alone(stores, tmp_path / "stopped")
    assert equal(again.train(), expected)
    assert stopped.scores + again.scores == whole.scores
    verdict = audit(read_logs(stopped.folder), None)
    assert (verdict.attempts, verdict.lost, verdict.repeated, verdict.recomputed) == (2, 0, 0, 0)
