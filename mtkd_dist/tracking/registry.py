"""A file of weights as a model of MLflow: logged once by its run, registered, and loaded or served without our code."""

from __future__ import annotations

import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_dist.models import digest_file
from mtkd_dist.tracking.events import Event, RefusedError

CURRENT = "current"
"""Alias of the version that was told of last: after a setting was changed back, that is not the newest one."""
_REGISTERED = "mlflow.modelVersions"
"""By this tag MLflow's pages lead from model to version; servers set it, a store without a server does not."""
_EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mNsaGhgwAaYGHCAwSkBADAXAZDUexXGAAAAAElFTkSuQmCC"
"""A grey image of 8x8 pixels: a PNG file in base64."""


def register(client: Any, run_id: str, event: Event) -> None:
    """Log the event's model and make a version of it, unless the run has made one of the same weights.

    Args:
        client: an MlflowClient.

    Errors: RefusedError where the file does not hold these weights any more, MlflowException.
    """
    from mlflow.exceptions import MlflowException

    name, tags = event["name"], {"weights": event["weights"], **event["tags"]}
    model = _logged(client, client.get_run(run_id), event, tags)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    of_run = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    version = next((one for one in of_run if one.tags.get("weights") == event["weights"]), None)
    if version is None:
        # By its place: MLflow looks an id up in the store that the process uses at large, which may be another one.
        version = client.create_model_version(
            name, model.artifact_location, run_id, tags, await_creation_for=0, model_id=model.model_id
        )
    for key, value in tags.items():
        client.set_model_version_tag(name, version.version, key, value)
    if _REGISTERED not in client.get_logged_model(model.model_id).tags:
        registered = json.dumps([{"name": name, "version": version.version}])
        client.set_logged_model_tags(model.model_id, {_REGISTERED: registered})
    client.set_registered_model_alias(name, CURRENT, version.version)


def _logged(client: Any, run: Any, event: Event, tags: Mapping[str, str]) -> Any:
    """The run's LoggedModel of these weights, whole, with the metrics of the run that belong to it."""
    from mlflow.entities import LoggedModelOutput, Metric

    run_id, experiment = run.info.run_id, run.info.experiment_id
    same = f"source_run_id = '{run_id}' and tags.weights = '{event['weights']}'"
    found = [model for model in client.search_logged_models([experiment], same) if model.name == event["title"]]
    model = found[0] if found else client.create_logged_model(experiment, event["title"], run_id, dict(tags))
    if model.status != "READY":
        with tempfile.TemporaryDirectory() as folder:
            _write(event, folder, tags)
            client.log_model_artifacts(model.model_id, folder)
        model = client.finalize_logged_model(model.model_id, "READY")
    client.set_logged_model_tags(model.model_id, dict(tags))
    if model.model_id not in [output.model_id for output in run.outputs.model_outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    newest = [client.get_metric_history(run_id, name)[-1] for name in event["metrics"] if name in run.data.metrics]
    client.log_batch(
        run_id, [Metric(m.key, m.value, m.timestamp, m.step, model_id=model.model_id, run_id=run_id) for m in newest]
    )
    return model


def _write(event: Event, folder: str, metadata: Mapping[str, str]) -> None:
    """A pyfunc model without code: MLflow asks `mtkd_dist.tracking.served` of the installed package for it."""
    path, weights = Path(event["path"]), event["weights"]
    if not path.exists() or digest_file(path) != weights:
        raise RefusedError(f"{path} does not hold the weights {weights[:12]} any more")
    # Else MLflow copies uv.lock and pyproject.toml of wherever the command was given into the model.
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    # MLflow's own word for a list of things that differ in size, which lets arrays of pixels pass as they are.
    images = Schema([TensorSpec(np.dtype("O"), (-1,))])
    mlflow.pyfunc.save_model(
        folder,
        loader_module="mtkd_dist.tracking.served",
        data_path=str(path),
        # Given, so that MLflow does not load the model in other processes to find out.
        pip_requirements=[f"mtkd-dist=={importlib.metadata.version('mtkd-dist')}"],
        signature=ModelSignature(images, images),
        input_example=np.array([_EXAMPLE], dtype=object),
        metadata=dict(metadata),
    )
