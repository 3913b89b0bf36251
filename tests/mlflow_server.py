"""Real MLflow servers, and a small run for them to hold."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from mtkd_dist.models import digest_file
from mtkd_dist.tracking.tracker import Tracker
from tests.nets import make_teacher

MODEL = "mtkd-run-student"
STEPS = 5


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int, store: str | None = None) -> Iterator[None]:
    """Answers at `port` when the block begins; killed without a warning at its end.

    `store`: the URI of its data base; default: SQLite in `folder`, where the artifacts lie, too.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", store or f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    # Else it starts a dozen processes for evaluations by language models.
    with _answering(command, port, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, folder / "server.log"):
        yield


@contextlib.contextmanager
def pages_of(store: str, port: int, log: Path) -> Iterator[None]:
    """The part of a server that its pages ask, in front of `store`: starts in a third of the time."""
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR

    command = [sys.executable, "-m", "flask", "--app", "mlflow.server:app", "run", "--port", str(port)]
    with _answering(command, port, {BACKEND_STORE_URI_ENV_VAR: store}, log):
        yield


@contextlib.contextmanager
def _answering(command: list[str], port: int, environment: dict[str, str], log_file: Path) -> Iterator[None]:
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"} | environment
    with log_file.open("ab") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while True:
            assert server.poll() is None, log_file.read_text()
            assert time.monotonic() < deadline, log_file.read_text()
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            time.sleep(0.3)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def track_a_run(output: Path) -> list[str]:
    """What a launch tells MLflow, in small: settings, losses, a picture, files, a model. Returns the warnings."""
    output.mkdir(parents=True, exist_ok=True)
    student = make_teacher(output, "student").path
    Image.effect_mandelbrot((96, 64), (-2, -1.5, 1, 1.5), 100).save(output / "held-00.png")
    (output / "config.yaml").write_text("scale: 2\n")
    warnings: list[str] = []
    tracker = Tracker(output, "mtkd-dist", output.name, warnings.append)
    tracker.start({"scale": 2, "distil": {"steps": STEPS}})
    distil = tracker.stage("distil")
    for step in range(STEPS):
        distil.metrics({"loss": 1 / (step + 1)}, step)
    distil.finish()
    evaluate = tracker.stage("evaluate")
    evaluate.image(output / "held-00.png", "held-00")
    evaluate.finish()
    tracker.run.metrics({"psnr_y/held/student": 30.25})
    tracker.run.artifact(output / "config.yaml")
    tags = {"scale": "2", "psnr_y/held": "30.25"}
    tracker.run.model(student, digest_file(student), MODEL, tags, metrics=["psnr_y/held/student"])
    tracker.close(timeout_seconds=300)
    return warnings
