"""The only place that talks to MLflow: one event in, one delivery or one exception out."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mtkd_dist.tracking.events import (
    METRICS_PER_CALL,
    PARAMS_PER_CALL,
    TAGS_PER_CALL,
    Event,
    RefusedError,
    tag_texts,
    without_credentials,
)
from mtkd_dist.tracking.registry import register

# Answers about the event itself: to send it again would not help. Anything else may pass (network, lock, disk, login).
_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}


class RunIds:
    """The MLflow runs of this launch, kept in `path` so that a restart continues them.

    Ids belong to one tracking store; under another `address` the launch begins with no runs.
    """

    def __init__(self, path: Path, address: str):
        self._path = path
        self._address = without_credentials(address)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if known.get("tracking_uri") != self._address:
            known = {}
        self._parent: str | None = known.get("parent")
        self._stages: dict[str, str] = known.get("stages", {})

    def get(self, run: str | None) -> str | None:
        """Id of a stage's run, or of the parent (run None); None when there is none yet."""
        return self._parent if run is None else self._stages.get(run)

    def set(self, run: str | None, run_id: str) -> None:
        if run is None:
            self._parent = run_id
        else:
            self._stages[run] = run_id
        content = {"tracking_uri": self._address, "parent": self._parent, "stages": self._stages}
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(fresh, self._path)


def _set_patience() -> None:
    # MLflow's own defaults (7 retries, 120 s each) would hold the queue for many minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    # A training job should call no third party that its user did not name.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def problem_at(address: str) -> str | None:
    """Why MLflow does not answer at a tracking URI, in a line; None where it does. Waits for the network."""
    _set_patience()
    try:
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=address).search_experiments(max_results=1)
    except Exception as error:  # of MLflow, a data base or the network: whatever it is, it is the answer
        told = _network_error_below(error) or error
        lines = str(told).strip().splitlines()
        return f"{type(told).__name__}: {lines[0] if lines else 'no reason given'}"
    return None


def _network_error_below(error: BaseException) -> OSError | None:
    """What the operating system said, which HTTP libraries wrap into errors of many lines."""
    below = error.__cause__ or error.__context__
    deeper = _network_error_below(below) if below else None
    return deeper or (error if isinstance(error, OSError) else None)


class Store:
    """MLflow at `MLFLOW_TRACKING_URI`, or `mlflow.db` with `mlartifacts/` in `output` when that is not set.

    Imports mlflow (seconds) and may wait for the network in every method: never use it on the thread that trains.
    Works with explicit run ids only, so that a script of the user may use MLflow's global run at the same time.
    """

    def __init__(self, output: Path, experiment: str, warn: Callable[[str], None]):
        _set_patience()
        from mlflow import MlflowClient

        output = output.resolve()
        chosen = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=chosen or f"sqlite:///{output / 'mlflow.db'}")
        self._artifacts = None if chosen else (output / "mlartifacts").as_uri()
        self._experiment = experiment
        self._warn = warn
        # Relative for our own store: an output folder that was moved still holds its runs.
        self._ids = RunIds(output / "mlflow_runs.json", chosen or "sqlite:///mlflow.db")

    def answers(self) -> bool:
        """Whether the tracking store itself is there (the artifact store may be another one)."""
        try:
            self._client.search_experiments(max_results=1)
        except Exception:
            return False
        return True

    def deliver(self, event: Event) -> None:
        """Raises RefusedError when MLflow will never take this event, anything else when a later try may work.

        Delivering an event twice leaves the same record as once.
        """
        from mlflow.exceptions import MlflowException

        kind = event["kind"]
        if kind == "run":
            self._start(event, MlflowException)
            return
        run_id = self._ids.get(event["run"])
        if run_id is None:
            raise RefusedError(f"there is no MLflow run for stage {event['run']!r}")
        try:
            match kind:
                case "params":
                    self._log_params(run_id, event["params"])
                case "tags":
                    self._log_tags(run_id, event["tags"])
                case "metrics":
                    self._log_metrics(run_id, event["rows"])
                case "artifact":
                    self._log_artifact(run_id, Path(event["path"]), event["name"])
                case "model":
                    register(self._client, run_id, event)
                case "finish":
                    self._client.set_terminated(run_id, event["status"], event["time_ms"])
                case _:
                    raise RefusedError(f"{kind!r} is no kind of event")
        except MlflowException as error:
            # A server from before MLflow 3, or without a registry; while a server is away, its proxy says the same.
            unknown = kind == "model" and error.error_code == "ENDPOINT_NOT_FOUND" and self.answers()
            if error.error_code in _REFUSALS or unknown:
                raise RefusedError(str(error)) from error
            raise

    def _start(self, event: Event, mlflow_error: type[Exception]) -> None:
        run = event["run"]
        tags = tag_texts(event["tags"])
        parent_id = self._ids.get(None)
        if run is not None and parent_id is not None:
            tags["mlflow.parentRunId"] = parent_id
        run_id = self._ids.get(run)
        if run_id is not None:
            try:
                self._client.update_run(run_id, status="RUNNING")
            except mlflow_error as error:
                # Somebody deleted the run (or emptied the store): the launch gets a new one.
                if getattr(error, "error_code", None) not in _REFUSALS:
                    raise
            else:
                self._log_tags(run_id, tags)
                return
        created = self._client.create_run(self._experiment_id(), event["time_ms"], tags, event["name"])
        self._ids.set(run, created.info.run_id)

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self._experiment)
        if found is not None:
            return found.experiment_id
        return self._client.create_experiment(self._experiment, artifact_location=self._artifacts)

    def _log_params(self, run_id: str, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        # MLflow refuses the whole call when one value differs from the first start.
        known = self._client.get_run(run_id).data.params
        changed = {key: value for key, value in params.items() if known.get(key, value) != value}
        fresh = [Param(key, value) for key, value in params.items() if key not in known]
        for part in _parts(fresh, PARAMS_PER_CALL):
            self._client.log_batch(run_id, params=part)
        if changed:
            self._log_tags(run_id, tag_texts({f"changed_param.{key}": value for key, value in changed.items()}))
            listed = ", ".join(f"{key} ({known[key]!r}, now {value!r})" for key, value in changed.items())
            self._warn(
                f"Parameters changed since this run was first started: {listed}. MLflow keeps the first value of a "
                "parameter; the new ones are in the tags changed_param.*"
            )

    def _log_tags(self, run_id: str, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        for part in _parts([RunTag(key, value) for key, value in tags.items()], TAGS_PER_CALL):
            self._client.log_batch(run_id, tags=part)

    def _log_metrics(self, run_id: str, rows: list[list[Any]]) -> None:
        from mlflow.entities import Metric

        for part in _parts([Metric(*row) for row in rows], METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=part)

    def _log_artifact(self, run_id: str, path: Path, name: str) -> None:
        if not path.exists():
            raise RefusedError(f"{path} is not there any more")
        folder, _, base = name.rpartition("/")
        if base == path.name:
            self._client.log_artifact(run_id, str(path), folder or None)
            return
        # MLflow names an artifact after its file.
        with tempfile.TemporaryDirectory() as temporary:
            renamed = shutil.copyfile(path, Path(temporary, base))
            self._client.log_artifact(run_id, str(renamed), folder or None)


def _parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
