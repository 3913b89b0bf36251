"""A run in an MLflow server whose store is PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.mlflow_server import MODEL, STEPS, free_port, mlflow_server, track_a_run
from tests.postgres import postgres

pytestmark = pytest.mark.slow  # the tables alone take a server ten seconds


def test_a_server_with_postgresql_holds_the_whole_run_and_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    output = tmp_path / "run"
    with postgres() as store, mlflow_server(tmp_path, port, store):
        for _ in range(2):  # the same command again
            assert track_a_run(output) == []
        client = mlflow.MlflowClient(f"http://127.0.0.1:{port}")
        runs = json.loads((output / "mlflow_runs.json").read_text())
        run = client.get_run(runs["parent"])
        assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
        assert run.data.params == {"scale": "2", "distil.steps": str(STEPS)}
        assert run.data.metrics == {"psnr_y/held/student": 30.25}
        losses = client.get_metric_history(runs["stages"]["distil"], "loss")
        assert {(metric.step, metric.value) for metric in losses} == {(step, 1 / (step + 1)) for step in range(STEPS)}
        fetched = client.download_artifacts(runs["stages"]["evaluate"], "images/held-00.png", str(tmp_path))
        assert Path(fetched).read_bytes() == (output / "held-00.png").read_bytes()
        (version,) = client.search_model_versions(f"name = '{MODEL}'")
        assert (version.run_id, version.tags["psnr_y/held"]) == (runs["parent"], "30.25")
        model = mlflow.pyfunc.load_model(f"models:/{MODEL}/1")
        assert model.predict(np.zeros((4, 6, 3), np.uint8)).shape == (8, 12, 3)
    assert not list(output.glob("mlflow_missed*")) + list(output.glob("mlflow_refused*"))
