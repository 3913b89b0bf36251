"""Which split a stage gets, and when it is measured: without Ray, by measurements of our own."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from mtkd_dist.config.tree import ClusterConfig, Config, LinkConfig, TrainingConfig
from mtkd_dist.pools.placement import Layout, Resources
from mtkd_dist.pools.split import Costs
from mtkd_dist.report.split_table import split_table
from mtkd_dist.stages import split
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.split import choose_layout, plan_stage

TRAINING = TrainingConfig(steps=100, batch_size=8, patch=16)
COSTS = Costs(3.0, 0.0, 1.0, 1e-6, 1e-6, {"a": 2.0, "b": 0.5}, 0.4, patch=16)


class Launch:
    """What `choose_layout` sees of a run, and how often something was measured."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.costs = COSTS
        self.threads: list[int] = []
        monkeypatch.setattr(split, "run_probe", self._probe)

    def _probe(self, teacher: object, student: object, most_threads: int) -> Costs:
        self.threads.append(most_threads)
        return self.costs

    @property
    def measured(self) -> int:
        return len(self.threads)

    def run(self, gpus: int, cpus: int = 16, **changes: Any) -> Run:
        config = Config(**({"link": LinkConfig(slot_size=1)} | changes))
        images = SimpleNamespace(lr_sizes=[(64, 64), (32, 64)])
        console = Console(file=io.StringIO())
        return Run(config, self.folder, console, cast(Any, None), Resources(cpus, gpus), cast(Any, images), None, {})

    def choose(self, gpus: int, cpus: int = 16, training: TrainingConfig = TRAINING, **changes: Any) -> Layout:
        return choose_layout(self.run(gpus, cpus, **changes), "distil", training, jobs)[0]


def jobs(layout: Layout) -> tuple[Any, Any]:
    return "student", "teacher"


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    return Launch(tmp_path, monkeypatch)


def workers(layout: Layout) -> tuple[int, int]:
    assert layout.teachers is not None
    return layout.teachers.workers, layout.students.workers


def test_the_fastest_split_is_taken_and_written_down(launch: Launch) -> None:
    assert workers(launch.choose(gpus=8)) == (6, 2)
    recorded = json.loads((launch.folder / "plan.json").read_text())["distil"]
    assert recorded["costs"]["teachers"] == {"a": 2.0, "b": 0.5}
    assert recorded["chosen"]["split"] == {"teachers": 6, "students": 2, "threads": 1, "shared": False}
    assert recorded["chosen"]["images_per_second"] == 2.0


def test_the_same_command_never_changes_its_mind(launch: Launch) -> None:
    launch.choose(gpus=8)
    launch.costs = dataclasses.replace(COSTS, teacher=1.0)
    assert workers(launch.choose(gpus=8)) == (6, 2)
    assert launch.measured == 1


def test_another_number_of_gpus_is_split_by_what_was_measured_before(launch: Launch) -> None:
    launch.choose(gpus=8)
    assert workers(launch.choose(gpus=4)) == (3, 1)
    assert launch.measured == 1


@pytest.mark.parametrize(
    "change", [{"teachers": ["rcan"]}, {"training": dataclasses.replace(TRAINING, patch=32)}, {"student": "rlfn"}]
)
def test_what_would_take_another_time_is_measured_anew(launch: Launch, change: dict[str, Any]) -> None:
    launch.choose(gpus=8)
    launch.choose(gpus=8, **change)
    assert launch.measured == 2


def test_plan_only_measures_anew(launch: Launch) -> None:
    launch.choose(gpus=8)
    launch.costs = dataclasses.replace(COSTS, teacher=1.0)
    assert plan_stage(launch.run(8), "distil", TRAINING, jobs).chosen.split.students == 4
    assert workers(launch.choose(gpus=8)) == (4, 4)


@pytest.mark.parametrize("text", ["", "[]", '{"distil": {"for": {}, "costs": {"teacher": 1}}}'])
def test_a_plan_that_cannot_be_read_is_made_again(launch: Launch, text: str) -> None:
    (launch.folder / "plan.json").write_text(text)
    assert workers(launch.choose(gpus=8)) == (6, 2)
    assert launch.measured == 1


@pytest.mark.parametrize(
    ("gpus", "cpus", "flags", "expected"),
    [
        (8, 16, {"teacher_gpus": 4, "student_gpus": 2}, (4, 2)),
        (8, 16, {"student_gpus": 4}, (4, 4)),
        (2, 16, {}, (1, 1)),
        (1, 16, {}, (1, 1)),
        (0, 2, {}, (1, 1)),
        (0, 8, {"cluster": ClusterConfig(teacher_workers=3, student_workers=2)}, (3, 2)),
    ],
)
def test_where_there_is_no_choice_nothing_is_measured(
    launch: Launch, gpus: int, cpus: int, flags: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert workers(launch.choose(gpus, cpus, **flags)) == expected
    assert launch.measured == 0
    assert not (launch.folder / "plan.json").exists()


def test_figures_of_an_earlier_plan_are_known_where_there_is_no_choice(launch: Launch) -> None:
    plan_stage(launch.run(2), "distil", TRAINING, jobs)
    layout, plan = choose_layout(launch.run(2), "distil", TRAINING, jobs)
    assert plan is not None
    assert (workers(layout), plan.costs, launch.measured) == ((1, 1), COSTS, 1)
    assert choose_layout(launch.run(2), "aggregate", TRAINING, jobs)[1] is None


def test_cpu_cores_are_split_between_single_teachers_and_students_with_threads(launch: Launch) -> None:
    launch.costs = dataclasses.replace(COSTS, serial=0.0)
    layout = launch.choose(gpus=0, cpus=8)
    assert workers(layout) == (6, 1)
    assert (layout.students.threads, launch.threads) == (2, [7])


def test_the_table_has_every_split_live_and_cached_side_by_side(launch: Launch) -> None:
    plan = plan_stage(launch.run(8), "distil", TRAINING, jobs)
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(split_table("distil", "GPU", plan.costs, plan.forecasts, plan.chosen, plan.cached, plan.images))
    lines = [line.split() for line in console.export_text().splitlines()]
    live = [line[1:5] for line in lines if line[:1] == ["live"]]
    assert live == [["7", "1", "1.0", "students"], ["6", "2", "2.0", "teachers"], ["4", "4", "1.3", "teachers"]]
    assert [line[2] for line in lines if line[-1:] == ["chosen"]] == ["2"]
    (cached,) = [line for line in lines if line[:1] == ["cached"]]
    assert cached[1:4] == ["0", "8", "8.0"]
    assert ["teacher", "a", "2000.00", "ms/image"] in lines
