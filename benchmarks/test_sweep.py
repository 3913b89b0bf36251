"""What a sweep gains from teachers that answer once, against one in which every trial runs its own.

    pytest -m slow benchmarks/test_sweep.py

The default sweep, with teachers that are trained before and not counted. The naive way is charitable: the same search,
the same process for each trial and as many at a time, without Ray's pools; only that nothing is shared: the teachers
answer in every step in the trial's own process, and each trial trains its own aggregator. Prints one Markdown table;
`--write` of this folder's conftest puts it into `benchmarks/results/sweep.md`.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import yaml

from benchmarks.results_table import Table
from mtkd_dist import launch
from mtkd_dist.train.answered_here import answered_here
from mtkd_tune import sweep
from mtkd_tune.load import base_config, load_sweep
from mtkd_tune.shared import Shared

NAIVE_TRIALS = 4
TABLE = Table("sweep", ["way", "early stopping", "trials", "minutes", "student steps", "trials/h", "ratio to naive"])


class NothingShared(Shared):
    def aggregator_folder(self, key: str) -> Path:
        return self.output / "aggregators" / f"{key}-{os.getpid()}"


def share_nothing(share: Callable[..., Shared], *arguments: object) -> Shared:
    shared = share(*arguments)
    # What `teacher_outputs: live` would say, had this way its own hosts.
    values = {field.name: getattr(shared, field.name) for field in dataclasses.fields(Shared)}
    return NothingShared(**values | {"live": answered_here})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A folder, and the default sweep's teachers as files in it."""
    folder = tmp_path_factory.mktemp("sweep")
    base = base_config(load_sweep(["--output", str(folder / "first")]))
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=True, log_to_driver=False)
    short = dataclasses.replace(base.distil, steps=2)
    file = folder / "teachers.yaml"
    config = dataclasses.replace(base, aggregate=short, distil=short, teacher_outputs="live")
    file.write_text(yaml.safe_dump(dataclasses.asdict(config)))
    assert launch.main(["--config", str(file)]) == 0
    names = [path.parent.name for path in sorted((folder / "first" / "teachers").glob("*/weights.safetensors"))]
    yield folder, [f"{folder}/first/teachers/{name}/weights.safetensors:name={name}" for name in names]
    ray.shutdown()


def run(folder: Path, name: str, teachers: list[str], *flags: str) -> tuple[float, list[dict[str, str]]]:
    """Seconds of a sweep from its first to its last trial, what is rendered before included; and its trials."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"output": str(folder / name), "launch": {"teachers": teachers}}))
    began = time.monotonic()
    assert sweep.main(["--config", str(file), *flags]) == 0
    seconds = time.monotonic() - began
    with (folder / name / "trials.csv").open() as text:
        rows = list(csv.DictReader(text))
    assert {row["status"] for row in rows} <= {"done", "stopped"}
    return seconds, rows


def tell(way: str, stopping: str, seconds: float, rows: list[dict[str, str]], naive: float | None) -> float:
    """Trials per hour."""
    rate = len(rows) / seconds * 3600
    steps = sum(int(row["step"]) for row in rows)
    ratio = "1.0" if naive is None else f"{rate / naive:.1f}"
    TABLE.add(way, stopping, str(len(rows)), f"{seconds / 60:.1f}", str(steps), f"{rate:.0f}", ratio)
    return rate


def as_if_stopped(
    naive: Path, seconds: float, rows: list[dict[str, str]], stopped: list[dict[str, str]], rate: float
) -> str:
    """What the naive way would have come to, had its students been stopped as often as those of the other way."""
    done = [json.loads(file.read_text()) for file in naive.glob("trials/*/distil/manifest.json")]
    distil = sum(one["seconds"] for one in done)
    share = sum(int(row["step"]) for row in stopped) / len(stopped) / int(rows[0]["step"])
    at_a_time = os.cpu_count() or 1
    shorter = seconds - (1 - share) * distil / at_a_time
    would = len(rows) / shorter * 3600
    return (
        f"With asha, trials made {share:.0%} of their steps. Had the naive way's students made no more, it would have "
        f"come to {would:.0f} trials/h (computed from the {distil / len(done):.0f} s that each of them took), and the "
        f"ratio to {rate / would:.1f}."
    )


@pytest.mark.slow
def test_trials_per_hour(trained: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, teachers = trained
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "prepare", lambda run, rendered: None)
        patch.setattr(sweep, "share", functools.partial(share_nothing, sweep.share))
        seconds, rows = run(folder, "naive", teachers, "--num-samples", str(NAIVE_TRIALS), "--scheduler", "none")
    naive = tell("every trial runs its own teachers", "none", seconds, rows, None)
    tell("shared", "none", *run(folder, "all", teachers, "--scheduler", "none"), naive)
    stopped = run(folder, "default", teachers)
    rate = tell("shared", "asha", *stopped, naive)
    TABLE.notes.append(as_if_stopped(folder / "naive", seconds, rows, stopped[1], rate))
