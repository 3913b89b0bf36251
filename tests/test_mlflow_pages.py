"""What MLflow's pages show of a run: asked as the pages ask it, and seen in a real browser."""

from __future__ import annotations

import io
import json
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser import Browser, browser
from tests.mlflow_server import MODEL, STEPS, free_port, mlflow_server, pages_of, track_a_run


def test_the_pages_of_the_default_store_are_given_run_metric_picture_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert track_a_run(tmp_path / "run") == []
    port = free_port()

    def asked(path: str, /, **query: str) -> bytes:
        url = f"http://127.0.0.1:{port}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()

    def api(path: str, /, **query: str) -> Any:
        return json.loads(asked(f"ajax-api/2.0/mlflow/{path}", **query))

    runs = json.loads((tmp_path / "run" / "mlflow_runs.json").read_text())
    with pages_of(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}", port, tmp_path / "pages.log"):
        run = api("runs/get", run_id=runs["parent"])["run"]
        assert run["info"]["run_name"] == "run"
        assert {metric["key"]: metric["value"] for metric in run["data"]["metrics"]} == {"psnr_y/held/student": 30.25}
        losses = api("metrics/get-history", run_id=runs["stages"]["distil"], metric_key="loss")["metrics"]
        assert [metric["step"] for metric in losses] == list(range(STEPS))
        files = api("artifacts/list", run_id=runs["stages"]["evaluate"], path="images")["files"]
        assert [file["path"] for file in files] == ["images/held-00.png"]
        picture = asked("get-artifact", run_id=runs["stages"]["evaluate"], path="images/held-00.png")
        assert Image.open(io.BytesIO(picture)).size == (96, 64)
        assert asked("get-artifact", run_id=runs["parent"], path="config.yaml") == b"scale: 2\n"
        (version,) = api("model-versions/search", filter=f"name='{MODEL}'")["model_versions"]
        assert (version["run_id"], version["status"]) == (runs["parent"], "READY")


@pytest.mark.slow  # a server and a browser
def test_a_browser_shows_run_metric_picture_and_model(
    tmp_path: Path, screenshots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with mlflow_server(tmp_path, port), browser() as chromium:
        assert track_a_run(tmp_path / "run") == []
        runs = json.loads((tmp_path / "run" / "mlflow_runs.json").read_text())
        from mlflow import MlflowClient

        experiment = MlflowClient(address).get_run(runs["parent"]).info.experiment_id
        of_experiment = f"{address}/#/experiments/{experiment}"

        show(chromium, f"{of_experiment}/runs", "run")
        show(chromium, f"{of_experiment}/runs/{runs['parent']}", "psnr_y/held/student", "30.25", MODEL)
        chromium.screenshot(screenshots / "mlflow-run.png")
        show(chromium, f"{of_experiment}/runs/{runs['parent']}/artifacts", "config.yaml")
        show(chromium, f"{of_experiment}/runs/{runs['stages']['distil']}/model-metrics", "loss")
        wait_for(chromium, _LINE_OF_A_CHART)
        chromium.screenshot(screenshots / "mlflow-metric.png")

        show(chromium, f"{of_experiment}/runs/{runs['stages']['evaluate']}/artifacts", "images", "held-00.png")
        assert wait_for(chromium, _SIZE_OF_THE_PICTURE) == [96, 64]
        chromium.screenshot(screenshots / "mlflow-picture.png")
        assert [fault for fault in chromium.faults() if "broken image" in fault] == []

        show(chromium, f"{address}/#/models/{MODEL}/versions/1", "Version 1", "run")


def show(chromium: Browser, url: str, *texts: str) -> None:
    """Open a page of MLflow's and wait for the texts, one after the other; on a tree of files, click on each."""
    chromium.open("about:blank")  # MLflow's pages differ behind the `#` only
    chromium.open(url)
    for text in texts:
        # An element may hold other things beside the text.
        it = wait_for(chromium, _ELEMENT_WITH_TEXT, text)
        if url.endswith("/artifacts"):
            it.click()


def wait_for(chromium: Browser, script: str, *arguments: str) -> Any:
    """What the script returns, once that is something."""
    deadline = time.monotonic() + 120
    while not (value := chromium.driver.execute_script(script, *arguments)):
        assert time.monotonic() < deadline, f"{arguments or script}: not on {chromium.driver.current_url}"
        time.sleep(0.2)
    return value


_ELEMENT_WITH_TEXT = """
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
    const it = texts.currentNode;
    if (it.data.trim() == arguments[0] && it.parentElement.checkVisibility()) return it.parentElement;
}
"""
_LINE_OF_A_CHART = "return document.querySelectorAll('.js-plotly-plot path.js-line').length"
_SIZE_OF_THE_PICTURE = """
const picture = [...document.images].find(i => i.complete && i.naturalWidth && i.src.startsWith('blob:'));
return picture && [picture.naturalWidth, picture.naturalHeight];
"""
