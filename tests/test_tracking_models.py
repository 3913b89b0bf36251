"""Students in MLflow's model registry, through the tracker and on the default store."""

from __future__ import annotations

import base64
import http.server
import io
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mtkd_dist.metrics import from_uint8, to_uint8
from mtkd_dist.models import digest_file, load_network
from mtkd_dist.tracking.tracker import Tracker
from tests.nets import make_teacher
from tests.test_tracking import CLOSED_PORT

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


@dataclass
class Output:
    """The output folder of launches, in each of which `student.safetensors` is registered."""

    folder: Path
    store: str
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the registered model: one for each output folder, as several of them share a store here."""
        return f"mtkd-{self.folder.name}-student"

    def launch(self, seed: int, score: float) -> None:
        """A launch that ends with the student of this seed."""
        tracker = Tracker(self.folder, "experiment", "x", self.warnings.append)
        tracker.start({})
        student = make_teacher(self.folder, "student", seed=seed).path
        shutil.copy(student, self.folder / f"seed-{seed}.safetensors")
        tracker.run.metrics({"psnr_y/held/student": score})
        tags = {"scale": "2", "psnr_y/held": str(score)}
        tracker.run.model(student, digest_file(student), self.name, tags, metrics=["psnr_y/held/student"])
        tracker.close(timeout_seconds=120)

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.store)

    def run(self) -> Any:
        return self.client.get_run(json.loads((self.folder / "mlflow_runs.json").read_text())["parent"])

    def versions(self) -> dict[int, Any]:
        return {int(version.version): version for version in self.client.search_model_versions(f"name = '{self.name}'")}

    def models(self) -> list[Any]:
        run = self.run().info
        return self.client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'")

    def left(self, file: str) -> list[dict[str, Any]]:
        path = self.folder / f"mlflow_{file}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def enlarged(self, seed: int) -> np.ndarray:
        """`PIXELS`, by the student of this seed itself."""
        with torch.no_grad():
            network = load_network(self.folder / f"seed-{seed}.safetensors").module
            return to_uint8(network(from_uint8(PIXELS)))[0]


def predicted(version: Any) -> np.ndarray:
    """`PIXELS`, by what MLflow makes of a version."""
    import mlflow

    return mlflow.pyfunc.load_model(version.source).predict(PIXELS)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """A launch on the default store, and the same command again: another test set gave its student another score."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        output = Output(folder, f"sqlite:///{folder / 'mlflow.db'}")
        output.launch(seed=0, score=30.0)
        output.launch(seed=0, score=31.0)
    return output


@pytest.fixture
def output(repeated: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Output:
    """A folder of its own, on the same store: to make one takes seconds."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", repeated.store)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Output(tmp_path, repeated.store)


def test_the_same_command_again_leaves_one_version_of_the_run(repeated: Output) -> None:
    ((number, version),) = repeated.versions().items()
    assert (number, version.run_id) == (1, repeated.run().info.run_id)
    assert [repeated.warnings, repeated.left("missed"), repeated.left("refused")] == [[], [], []]


def test_version_and_model_say_what_they_are_and_what_they_scored_last(repeated: Output) -> None:
    (version,), (model,) = repeated.versions().values(), repeated.models()
    weights = digest_file(repeated.folder / "student.safetensors")
    assert version.tags == {"weights": weights, "scale": "2", "psnr_y/held": "31.0"}
    assert version.tags.items() <= model.tags.items()
    assert (model.name, model.status, model.source_run_id) == ("student", "READY", version.run_id)
    assert [metric.value for metric in model.metrics if metric.key == "psnr_y/held/student"][-1] == 31.0


def test_run_model_and_version_lead_to_each_other(repeated: Output) -> None:
    (version,), (model,) = repeated.versions().values(), repeated.models()
    assert [output.model_id for output in repeated.run().outputs.model_outputs] == [model.model_id]
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": repeated.name, "version": version.version}]
    assert version.source == model.artifact_location


def test_the_registered_model_enlarges_as_the_student_does(repeated: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", repeated.store)
    model = mlflow.pyfunc.load_model(f"models:/{repeated.name}@current")
    np.testing.assert_array_equal(model.predict(PIXELS), repeated.enlarged(seed=0))
    (example,) = model.predict(model.input_example)
    assert Image.open(io.BytesIO(base64.b64decode(example))).size == (16, 16)


def test_the_model_holds_weights_and_no_code_and_asks_for_this_package(repeated: Output) -> None:
    (folder,) = (repeated.folder / "mlartifacts" / "models").glob("*/artifacts")
    assert digest_file(folder / "data" / "student.safetensors") == digest_file(repeated.folder / "student.safetensors")
    assert {path.suffix for path in folder.rglob("*")} <= {"", ".safetensors", ".txt", ".yaml", ".json"}
    assert any(line.startswith("mtkd-dist==") for line in (folder / "requirements.txt").read_text().splitlines())
    assert "loader_module: mtkd_dist.tracking.served" in (folder / "MLmodel").read_text()


def test_another_student_is_another_version_and_current_follows_what_the_folder_holds(output: Output) -> None:
    for seed in (0, 1, 0):
        output.launch(seed, 30.0)
        current = output.client.get_model_version_by_alias(output.name, "current")
        np.testing.assert_array_equal(predicted(current), output.enlarged(seed))
    versions = output.versions()
    assert sorted(versions) == [1, 2]
    for number, seed in ((1, 0), (2, 1)):
        np.testing.assert_array_equal(predicted(versions[number]), output.enlarged(seed))


def test_what_an_outage_held_up_is_one_version_however_often_it_is_delivered(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    missed, copy = output.folder / "mlflow_missed.jsonl", output.folder / "copy"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", CLOSED_PORT)
    output.launch(seed=0, score=30.0)
    assert "model" in [event["kind"] for event in output.left("missed")]
    shutil.copy(missed, copy)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", output.store)
    for _ in range(2):  # as after a process that was killed before it could take them out
        shutil.copy(copy, missed)
        tracker = Tracker(output.folder, "experiment", "x", output.warnings.append)
        tracker.start({})
        tracker.close(timeout_seconds=120)
    assert [output.left("missed"), output.left("refused")] == [[], []]
    assert (sorted(output.versions()), len(output.models())) == ([1], 1)
    np.testing.assert_array_equal(predicted(output.versions()[1]), output.enlarged(seed=0))


def test_what_was_cut_off_in_the_middle_is_completed_and_not_begun_anew(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def cut_off(*_: object) -> None:
        raise ConnectionError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "finalize_logged_model", cut_off)
        output.launch(seed=0, score=30.0)
    assert [model.status for model in output.models()] == ["PENDING"]
    output.launch(seed=0, score=30.0)
    assert [model.status for model in output.models()] == ["READY"]
    np.testing.assert_array_equal(predicted(output.versions()[1]), output.enlarged(seed=0))


def test_weights_that_are_gone_when_their_turn_comes_are_refused_with_the_reason(output: Output) -> None:
    tracker = Tracker(output.folder, "experiment", "x", output.warnings.append)
    tracker.start({})
    student = make_teacher(output.folder, "student").path
    tracker.run.model(student, "0" * 64, output.name, {})
    tracker.close(timeout_seconds=120)
    (refused,) = output.left("refused")
    assert refused["reason"] == f"{student} does not hold the weights 000000000000 any more"
    assert output.run().info.status == "FINISHED"


class NoRegistry(http.server.BaseHTTPRequestHandler):
    """A server that knows nothing of models, as those from before the registry."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def no_registry() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NoRegistry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_without_a_registry_there_is_a_warning_and_all_else_is_kept(
    output: Output, no_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", no_registry)
    output.launch(seed=0, score=30.0)
    assert [event["kind"] for event in output.left("refused")] == ["model"]
    (warning,) = output.warnings
    assert "MLflow refused an event" in warning
    assert output.run().info.status == "FINISHED"
    assert output.left("missed") == []


def test_a_registry_that_is_away_holds_nothing_else_back(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", CLOSED_PORT)
    output.launch(seed=0, score=30.0)
    assert [event["kind"] for event in output.left("missed")] == ["model"]
    assert (output.run().info.status, len(output.warnings)) == ("FINISHED", 1)

    monkeypatch.delenv("MLFLOW_REGISTRY_URI")
    output.launch(seed=0, score=30.0)
    assert sorted(output.versions()) == [1]
    assert output.left("missed") == []
