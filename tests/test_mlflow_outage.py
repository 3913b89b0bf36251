"""A real MLflow server that is killed while a training reports to it, and comes back."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mtkd_dist.tracking import tracker as tracker_module
from mtkd_dist.tracking.tracker import Tracker
from mtkd_dist.train.state import TrainState
from tests.mlflow_server import free_port, mlflow_server
from tests.nets import make_job, make_store, train_alone

pytestmark = pytest.mark.slow  # a server takes ten seconds to start

STEPS = 60


def test_nothing_is_lost_and_the_training_does_not_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "FIRST_RETRY_SECONDS", 0.5)
    monkeypatch.setattr(tracker_module, "LONGEST_RETRY_SECONDS", 1.0)
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    job = make_job(make_store(tmp_path), steps=STEPS)
    alone, tracked = (TrainState(job.build(), job.training) for _ in range(2))
    tracked.model.load_state_dict(alone.model.state_dict())
    if tracked.ema is not None:
        tracked.ema.load_state_dict(tracked.model.state_dict())
    train_alone(job, alone)

    output = tmp_path / "run"
    warnings: list[str] = []
    tracker = Tracker(output, "experiment", "launch", warnings.append)
    servers = contextlib.ExitStack()
    servers.enter_context(mlflow_server(tmp_path, port))
    tracker.start({"steps": STEPS})
    stage = tracker.stage("distil")
    reported = 0

    def post(records: list[dict[str, object]]) -> None:
        nonlocal reported
        for record in records:
            stage.metrics({"loss": record["loss"]}, step=record["step"])  # type: ignore[dict-item]
            reported += 1
            if reported == STEPS // 3:
                wait_until(lambda: len(steps_of_losses(tmp_path)) >= 1)
                servers.close()  # killed with a part of the losses, in the middle of a training
            if reported == 2 * STEPS // 3:
                wait_until(lambda: (output / "mlflow_missed.jsonl").exists())
                servers.enter_context(mlflow_server(tmp_path, port))

    with servers:
        train_alone(job, tracked, post=post)
        stage.finish()
        tracker.close(timeout_seconds=300)

    assert len([text for text in warnings if "MLflow cannot be used" in text]) == 1
    assert not (output / "mlflow_missed.jsonl").exists()
    assert not (output / "mlflow_refused.jsonl").exists()
    assert steps_of_losses(tmp_path) == list(range(STEPS))
    for name, weights in alone.result().items():
        assert torch.equal(weights, tracked.result()[name]), name


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def steps_of_losses(folder: Path) -> list[int]:
    """Read from the server's data base itself: each step as often as it was stored."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as data_base:
        rows = data_base.execute("select step from metrics where key = 'loss' order by step").fetchall()
    return [step for (step,) in rows]
