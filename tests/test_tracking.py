from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtkd_dist.tracking import tracker as tracker_module
from mtkd_dist.tracking.events import (
    METRICS_PER_CALL,
    flatten,
    legal_key,
    merged,
    metric_rows,
    param_texts,
    without_credentials,
)
from mtkd_dist.tracking.spool import Spool
from mtkd_dist.tracking.store import RefusedError
from mtkd_dist.tracking.tracker import Tracker, retry_delay

CLOSED_PORT = "http://user:secret@127.0.0.1:9"


# Rules


def test_nested_params_become_dotted_names() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {"d": 2}}, "e": {}})) == {"a.b": 1, "a.c.d": 2, "e": {}}


def test_long_param_value_is_cut_to_the_limit_and_says_so() -> None:
    text = param_texts({"x": "y" * 7000})["x"]
    assert len(text) == 6000
    assert text.endswith("y...")


def test_long_keys_that_differ_at_the_end_stay_different() -> None:
    first, second = legal_key("k" * 300 + "a"), legal_key("k" * 300 + "b")
    assert len(first) == len(second) == 250
    assert first != second


@settings(deadline=None)  # the first example imports MLflow
@given(st.text(max_size=400))
def test_mlflow_accepts_every_legal_key(key: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param

    _validate_metric_name(legal_key(key))
    _validate_param(legal_key(key), "1")


def test_values_that_are_not_finite_become_tags() -> None:
    rows, tags = metric_rows({"loss": math.nan, "grad": -math.inf, "psnr": 30.5}, 7, 1000)
    assert rows == [["psnr", 30.5, 1000, 7]]
    assert tags == {"nonfinite.loss": "nan at step 7", "nonfinite.grad": "-inf at step 7"}


_event = st.one_of(
    st.builds(
        lambda run, n: {"kind": "metrics", "run": run, "rows": [["m", float(i), 0, i] for i in range(n)]},
        st.sampled_from([None, "a"]),
        st.integers(1, 700),
    ),
    st.builds(lambda run: {"kind": "tags", "run": run, "tags": {}}, st.sampled_from([None, "a"])),
)


@given(st.lists(_event, max_size=12))
def test_merging_keeps_every_row_and_the_order(events: list[dict[str, Any]]) -> None:
    def unrolled(items: list[dict[str, Any]]) -> list[Any]:
        return [(event["kind"], event["run"], row) for event in items for row in event.get("rows", [None])]

    joined = merged(events)
    assert unrolled(joined) == unrolled(events)
    assert all(len(event.get("rows", [])) <= METRICS_PER_CALL for event in joined)


def test_credentials_are_taken_out_of_addresses() -> None:
    assert without_credentials("to http://me:pw@host:1/x failed") == "to http://host:1/x failed"


def test_retries_back_off_to_a_limit() -> None:
    assert [retry_delay(n) for n in (1, 2, 3, 50)] == [5, 10, 20, 300]


def test_spool_gives_back_what_was_appended_and_names_a_half_written_line(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append([{"kind": "tags", "run": None, "tags": {"a": "ü\n"}}])
    with spool.path.open("a") as file:
        file.write('{"kind": "me')
    assert spool.read() == ([{"kind": "tags", "run": None, "tags": {"a": "ü\n"}}], ['{"kind": "me'])


def test_spool_without_events_is_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append([{"kind": "tags", "run": None, "tags": {}}])
    spool.replace([])
    assert not spool.pending


# The thread, with a store that only remembers


class FakeStore:
    """Stands for MLflow; `down` and `broken_artifacts` make it fail."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.down = False
        self.broken_artifacts = False
        self.refuses: str | None = None
        self.took_params = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, *_: object) -> FakeStore:
        return self

    def answers(self) -> bool:
        return not self.down

    def deliver(self, event: dict[str, Any]) -> None:
        self.gate.wait(20)
        if self.down or (self.broken_artifacts and event["kind"] == "artifact"):
            raise ConnectionError("nobody there")
        if event["kind"] == self.refuses:
            raise RefusedError("never")
        self.taken.append(event)
        if event["kind"] == "params":
            self.took_params.set()

    def losses(self) -> list[float]:
        return [row[1] for event in self.taken if event["kind"] == "metrics" for row in event["rows"]]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    fake = FakeStore()
    monkeypatch.setattr(tracker_module, "Store", fake)
    return fake


def _tracker(tmp_path: Path) -> tuple[Tracker, list[str]]:
    warnings: list[str] = []
    return Tracker(tmp_path, "experiment", "launch", warnings.append), warnings


def _spooled(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "mlflow_missed.jsonl").read_text().splitlines()]


def test_server_that_comes_back_in_the_same_run_gets_everything_in_order(
    tmp_path: Path, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(tracker_module, "LONGEST_RETRY_SECONDS", 0.02)
    tracker, warnings = _tracker(tmp_path)
    store.down = True
    tracker.start({})
    for step in range(50):
        tracker.run.metrics({"loss": step}, step)
        if step == 25:
            store.down = False
    tracker.close()
    assert store.losses() == list(range(50))
    assert [event["kind"] for event in store.taken][:2] == ["run", "params"]
    assert store.taken[-1]["kind"] == "finish"
    assert not (tmp_path / "mlflow_missed.jsonl").exists()
    assert len(warnings) <= 1


def test_outage_in_the_middle_keeps_only_what_was_not_delivered(tmp_path: Path, store: FakeStore) -> None:
    tracker, warnings = _tracker(tmp_path)
    tracker.start({})
    assert store.took_params.wait(20)
    store.down = True
    tracker.run.metrics({"loss": 1.0}, 1)
    tracker.close("FAILED")
    assert [event["kind"] for event in _spooled(tmp_path)] == ["metrics", "finish"]
    assert len(warnings) == 1


def test_artifact_that_cannot_be_stored_does_not_hold_back_metrics(tmp_path: Path, store: FakeStore) -> None:
    tracker, warnings = _tracker(tmp_path)
    store.broken_artifacts = True
    tracker.start({})
    tracker.run.artifact(tmp_path / "weights")
    tracker.run.metrics({"loss": 1.0}, 1)
    tracker.close()
    assert store.losses() == [1.0]
    assert [event["kind"] for event in _spooled(tmp_path)] == ["artifact"]
    assert len(warnings) == 1


def test_refused_event_is_kept_with_its_reason_and_the_next_goes_on(tmp_path: Path, store: FakeStore) -> None:
    tracker, warnings = _tracker(tmp_path)
    store.refuses = "params"
    tracker.start({"a": 1})
    tracker.run.metrics({"loss": 1.0}, 1)
    tracker.close()
    (refused,) = (tmp_path / "mlflow_refused.jsonl").read_text().splitlines()
    assert json.loads(refused) == {"kind": "params", "run": None, "params": {"a": "1"}, "reason": "never"}
    assert store.losses() == [1.0]
    assert len(warnings) == 1


def test_close_gives_up_on_a_server_that_hangs_and_keeps_everything(tmp_path: Path, store: FakeStore) -> None:
    tracker, warnings = _tracker(tmp_path)
    store.gate.clear()
    tracker.start({})
    tracker.run.metrics({"loss": 1.0}, 1)
    tracker.close(timeout_seconds=0.05)
    assert [event["kind"] for event in _spooled(tmp_path)] == ["run", "params", "metrics", "finish"]
    assert len(warnings) == 1
    store.gate.set()


def test_event_after_close_waits_for_the_next_start(tmp_path: Path, store: FakeStore) -> None:
    tracker, _ = _tracker(tmp_path)
    tracker.start({})
    tracker.close()
    tracker.run.metrics({"loss": 3.0}, 1)
    again, _ = _tracker(tmp_path)
    again.start({})
    again.close()
    assert store.losses() == [3.0]
    assert not (tmp_path / "mlflow_missed.jsonl").exists()


def test_close_ends_unfinished_stages_with_its_status(tmp_path: Path, store: FakeStore) -> None:
    tracker, _ = _tracker(tmp_path)
    tracker.start({})
    tracker.stage("aggregate").finish()
    tracker.stage("distil")
    tracker.close("FAILED")
    ends = [(event["run"], event["status"]) for event in store.taken if event["kind"] == "finish"]
    assert ends == [("aggregate", "FINISHED"), ("distil", "FAILED"), (None, "FAILED")]


def test_tags_of_an_earlier_run_neither_begin_nor_end_it(tmp_path: Path, store: FakeStore) -> None:
    tracker, _ = _tracker(tmp_path)
    tracker.start({})
    tracker.earlier("trial").tags({"best trial": "x" * 9000})
    tracker.close()
    (event,) = [event for event in store.taken if event["run"] == "trial"]
    assert event == {"kind": "tags", "run": "trial", "tags": {"best trial": "x" * 8000}}


# MLflow itself


@dataclass
class Launches:
    """Two starts of one launch on the default store, and what MLflow holds of them."""

    output: Path
    client: Any
    ids: list[dict[str, Any]]
    status_between: str
    warnings: list[list[str]]

    def run(self, stage: str | None = None) -> Any:
        ids = self.ids[-1]
        return self.client.get_run(ids["parent"] if stage is None else ids["stages"][stage])

    def artifacts(self, stage: str | None, folder: str) -> list[str]:
        return [file.path for file in self.client.list_artifacts(self.run(stage).info.run_id, folder)]


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> Launches:
    output = tmp_path_factory.mktemp("tracking") / "out put"
    output.mkdir()
    (output / "grid.png").write_bytes(b"png")
    (output / "folder").mkdir()
    (output / "folder" / "weights.bin").write_bytes(b"w")
    ids, warnings, statuses = [], [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for start in range(2):
            warnings.append([])
            tracker = Tracker(output, "super-resolution", "launch", warnings[-1].append)
            tracker.start({"data": {"scale": 4}, "lr": 0.1 * (start + 1), f"only{start}": True}, {"digest": "abc"})
            stage = tracker.stage("distil")
            stage.params({"channels": 64})
            for step in range(3):
                stage.metrics({"loss": 1.0 / (step + 1 + start), "psnr@4": 30 + step}, step=step + 3 * start)
            stage.metrics({"loss": math.nan}, step=99)
            stage.image(output / "grid.png", "step-3")
            tracker.run.artifact(output / "folder", "out")
            stage.finish()
            tracker.close()
            ids.append(json.loads((output / "mlflow_runs.json").read_text()))
            from mlflow import MlflowClient

            client = MlflowClient(f"sqlite:///{output}/mlflow.db")
            statuses.append(client.get_run(ids[-1]["parent"]).info.status)
    return Launches(output, client, ids, statuses[0], warnings)


def test_restart_continues_the_same_runs(launches: Launches) -> None:
    assert launches.ids[0] == launches.ids[1]
    assert len(launches.client.search_runs([launches.run().info.experiment_id])) == 2


def test_runs_end_finished(launches: Launches) -> None:
    assert [launches.status_between, launches.run().info.status, launches.run("distil").info.status] == ["FINISHED"] * 3


def test_stage_is_a_child_of_the_launch(launches: Launches) -> None:
    child = launches.run("distil")
    assert child.data.tags["mlflow.parentRunId"] == launches.run().info.run_id
    assert child.info.run_name == "distil"
    assert launches.run().info.run_name == "launch"
    assert launches.run().data.tags["digest"] == "abc"


def test_params_are_flat_and_a_changed_one_is_a_tag_and_a_warning(launches: Launches) -> None:
    run = launches.run()
    assert run.data.params == {"data.scale": "4", "lr": "0.1", "only0": "True", "only1": "True"}
    assert run.data.tags["changed_param.lr"] == "0.2"
    assert launches.run("distil").data.params == {"channels": "64"}
    assert launches.warnings[0] == []
    (warning,) = launches.warnings[1]
    assert "lr ('0.1', now '0.2')" in warning


def test_metrics_hold_every_step_of_both_starts(launches: Launches) -> None:
    history = launches.client.get_metric_history(launches.run("distil").info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [
        (0, 1.0),
        (1, 1 / 2),
        (2, 1 / 3),
        (3, 1 / 2),
        (4, 1 / 3),
        (5, 1 / 4),
    ]
    assert launches.run("distil").data.metrics["psnr_4"] == 32
    assert launches.run("distil").data.tags["nonfinite.loss"] == "nan at step 99"


def test_artifacts_lie_in_the_output_folder(launches: Launches) -> None:
    assert launches.artifacts("distil", "images") == ["images/step-3.png"]
    assert launches.artifacts(None, "out/folder") == ["out/folder/weights.bin"]
    assert list((launches.output / "mlartifacts").rglob("step-3.png"))


def test_nothing_is_left_waiting_or_refused(launches: Launches) -> None:
    assert not list(launches.output.glob("mlflow_missed*"))
    assert not list(launches.output.glob("mlflow_refused*"))


def test_run_that_was_deleted_is_replaced_by_a_new_one(launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{launches.output}/mlflow.db")
    output = launches.output / "other"
    ids: list[str] = []
    warnings: list[str] = []
    for _ in range(2):
        tracker = Tracker(output, "deleting", "launch", warnings.append)
        tracker.start({})
        tracker.close()
        ids.append(json.loads((output / "mlflow_runs.json").read_text())["parent"])
        launches.client.delete_run(ids[-1])
    assert ids[0] != ids[1]
    assert warnings == []


def test_outage_warns_once_keeps_the_events_and_the_next_start_sends_them(
    launches: Launches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", CLOSED_PORT)
    (tmp_path / "gone.txt").write_text("x")
    tracker, warnings = _tracker(tmp_path)
    tracker.start({"a": 1})
    stage = tracker.stage("distil")
    for step in range(5):
        stage.metrics({"loss": 0.5}, step)
    stage.artifact(tmp_path / "gone.txt")
    tracker.close("FAILED")

    kept = [(event["kind"], event["run"]) for event in merged(_spooled(tmp_path))]
    d = "distil"
    assert kept == [
        ("run", None),
        ("params", None),
        ("run", d),
        ("metrics", d),
        ("artifact", d),
        ("finish", d),
        ("finish", None),
    ]
    (warning,) = warnings
    assert "mlflow_missed.jsonl" in warning
    assert "secret" not in warning
    happened = [row[2] for event in _spooled(tmp_path) if event["kind"] == "metrics" for row in event["rows"]]

    (tmp_path / "gone.txt").unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{launches.output}/mlflow.db")
    tracker, warnings = _tracker(tmp_path)
    tracker.start({"a": 1})
    tracker.close()
    assert not (tmp_path / "mlflow_missed.jsonl").exists()
    ids = json.loads((tmp_path / "mlflow_runs.json").read_text())
    history = launches.client.get_metric_history(ids["stages"]["distil"], "loss")
    assert [(metric.step, metric.timestamp) for metric in history] == list(enumerate(happened))
    assert launches.client.get_run(ids["stages"]["distil"]).data.tags["mlflow.parentRunId"] == ids["parent"]
    assert launches.client.get_run(ids["parent"]).info.status == "FINISHED"
    assert "not there any more" in (tmp_path / "mlflow_refused.jsonl").read_text()
    assert len(warnings) == 1
