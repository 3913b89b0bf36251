"""Whole comparisons: the command, its cells as Ray tasks, and what it leaves."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient

from mtkd_dist.compare.command import main
from mtkd_dist.compare.tree import METHODS
from mtkd_dist.compare.work import slug
from mtkd_dist.habits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from mtkd_dist.models import digest_file
from mtkd_dist.train.audit import audit
from mtkd_dist.train.checkpoints import Checkpoints
from mtkd_dist.train.consumption import read_logs
from tests.nets import TINY, TINY_AGGREGATOR, train_teacher, write_photos

OTHER = "edsr-baseline:width=8,blocks=2"
TRAINING = {"batch_size": 4, "patch": 8, "ema": 0.5, "checkpoint_every": 2, "validate_every": 0, "steps": 4}

pytestmark = pytest.mark.slow


class Comparisons:
    """Comparisons of nearly nothing, with the same photographs and teachers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_photos(folder / "train", 4)
        write_photos(folder / "held", 2, side=48)
        teachers = [train_teacher(folder, name) for name in ("a", "b")]
        self.launch = {
            "data": [str(folder / "train")],
            "test": [f"held={folder / 'held'}"],
            "teachers": [str(teacher.path) for teacher in teachers],
            "aggregator": TINY_AGGREGATOR,
            "scale": 2,
            "link": {"slot_size": 2},
            "answers": {"folder": str(folder / "answers")},
            "aggregate": TRAINING,
            "distil": TRAINING,
            **{method: {"taps": ["body.0"]} for method in ("at", "fakd")},
            "crosskd": {"tap": "body.0"},
        }

    def flags(self, name: str, distil: dict[str, Any] | None = None, **settings: Any) -> list[str]:
        """The words of a command."""
        launch = self.launch | {"distil": TRAINING | (distil or {})}
        settings = {"students": [TINY, OTHER], "seeds": [0], "launch": launch} | settings
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings | {"output": str(self.folder / name)}))
        return ["--config", str(file)]

    def students(self, name: str) -> dict[str, str]:
        """File of each trained student -> its digest."""
        files = sorted((self.folder / name / "cells").rglob("student*.safetensors"))
        return {str(path.relative_to(self.folder / name)): digest_file(path) for path in files}

    def rows(self, name: str, file: str) -> list[dict[str, str]]:
        with (self.folder / name / file).open() as lines:
            return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def comparisons(tmp_path_factory: pytest.TempPathFactory) -> Comparisons:
    return Comparisons(tmp_path_factory.mktemp("comparisons"))


def test_all_methods_are_compared_and_more_cells_may_join(comparisons: Comparisons) -> None:
    output = comparisons.folder / "all"
    assert main(comparisons.flags("all")) == EXIT_OK
    cells = {(row["method"], row["student"]) for row in comparisons.rows("all", "scores.csv") if row["student"]}
    assert cells == {(method, student) for method in METHODS for student in (TINY, OTHER)}
    for name in ("comparison.md", "comparison.png", "summary.csv", "differences.csv", "cells.json", "compare.yaml"):
        assert (output / name).stat().st_size > 0
    client = MlflowClient(f"sqlite:///{output / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "mtkd-compare"]
    runs = client.search_runs([experiment.experiment_id])
    children = {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    shared = {"teachers/a", "teachers/b", "answers/teachers"}
    assert children.keys() - shared == {
        f"{method}/{slug(student)}/seed-0" for method in METHODS for student in (TINY, OTHER)
    }
    for name in children.keys() - shared:
        assert {"psnr_y/held", "seconds", "bytes_per_sample"} <= children[name].data.metrics.keys()
    assert {run.info.status for run in runs} == {"FINISHED"}

    before = comparisons.students("all")
    written = {name: (output / name).stat().st_mtime_ns for name in before}
    assert main(comparisons.flags("all", seeds=[0, 1])) == EXIT_OK
    assert {name: (output / name).stat().st_mtime_ns for name in before} == written
    assert len(comparisons.students("all")) == 2 * len(before)

    assert main(comparisons.flags("all", distil={"steps": 6})) == EXIT_USAGE


def test_a_cell_that_fails_costs_no_other_and_is_tried_again(
    comparisons: Comparisons, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    output = comparisons.folder / "broken"
    obstacle = output / "cells" / "kd"
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where a folder is to be")
    words = comparisons.flags("broken", methods=["scratch", "kd", "mean"])
    assert main(words) == EXIT_FAILED
    assert "Missing (failed, or not done yet) are 2 of 6 students" in (output / "comparison.md").read_text()
    assert f"kd, {TINY}, seed 0: failed: NotADirectoryError" in caplog.text
    others = comparisons.students("broken")
    obstacle.unlink()
    assert main(words) == EXIT_OK
    assert others.items() <= comparisons.students("broken").items()
    assert "Missing" not in (output / "comparison.md").read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_comparison_that_is_ended_goes_on_to_the_same_students(comparisons: Comparisons, how: signal.Signals) -> None:
    several = {"methods": ["kd", "dukd", "mtkd"], "distil": {"steps": 40}}
    if not (comparisons.folder / "whole").exists():
        assert main(comparisons.flags("whole", **several)) == EXIT_OK
    name = f"ended-{how.name}"
    words = comparisons.flags(name, **several)
    with (comparisons.folder / f"{name}.out").open("w") as out:
        command = [sys.executable, "-m", "mtkd_dist.compare", *words]
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ})
        output = comparisons.folder / name
        wait_for(lambda: any((output / "cells").rglob("checkpoints-*/*")), 180)
        process.send_signal(how)
        process.wait(120)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else EXIT_INTERRUPTED)
    assert main(words) == EXIT_OK
    assert comparisons.students(name) == comparisons.students("whole")


def test_ctrl_c_lets_cells_save_and_begins_no_other(comparisons: Comparisons) -> None:
    words = comparisons.flags("saved", methods=["kd", "dukd"], distil={"steps": 400, "checkpoint_every": 1000})
    output, screen = comparisons.folder / "saved", comparisons.folder / "saved.out"
    with screen.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "mtkd_dist.compare", *words], stdout=out, stderr=out)
        # Teachers aside, whose images are rendered before.
        wait_for(lambda: any((output / "cells").rglob("consumed/*.jsonl")), 180)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == EXIT_INTERRUPTED
    assert "cells  finishing the step and saving" in screen.read_text()
    assert "What was at work is saved." in screen.read_text()
    begun = [path.parent.parent for path in (output / "cells").rglob("consumed/*-0001-rank-00.jsonl")]
    assert begun
    for checkpoints in begun:
        assert max(Checkpoints(checkpoints).steps()) == max(line.step for line in read_logs(checkpoints)[0].lines) + 1
    assert main(words) == EXIT_OK
    for checkpoints in begun:
        verdict = audit(read_logs(checkpoints), None)
        assert (verdict.lost, verdict.repeated, verdict.recomputed, verdict.finished) == (0, 0, 0, True)


def wait_for(what: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
