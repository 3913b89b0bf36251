"""What a comparison knows of its cells, and hands back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mtkd_dist.compare.load import base_config
from mtkd_dist.compare.results import CELLS, TABLES, Outcomes, hand_back
from mtkd_dist.compare.room import room_of
from mtkd_dist.compare.tree import CellConfig, CompareConfig
from mtkd_dist.compare.work import Work
from mtkd_dist.pools.placement import LayoutError, Resources
from mtkd_dist.report.comparison import Cell
from mtkd_dist.tracking.tracker import Untracked

COMPARE = CompareConfig(methods=["scratch", "kd"], students=["edsr", "rcan"], seeds=[0, 1])
BASE = base_config(COMPARE)
SCORES = {"held": {"a.png": [30.0, 0.9], "b.png": [31.0, 0.8]}}


def cells_of(work: Work, psnr: float = 30.0) -> list[Cell]:
    scores = {"held": {"a.png": [psnr, 0.9], "b.png": [psnr + 1, 0.8]}}
    return [Cell(work.method, student, work.seed, 10, 1.0, 100, 1000, scores) for student in work.students]  # type: ignore[arg-type]


def outcomes_in(output: Path, compare: CompareConfig = COMPARE) -> Outcomes:
    return Outcomes(compare, BASE, output)


def handed_back(outcomes: Outcomes, output: Path) -> str:
    screen = io.StringIO()
    hand_back(outcomes, output, Untracked(), Console(file=screen, width=200))
    return screen.getvalue()


def test_an_interrupted_start_forgets_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    first = outcomes_in(tmp_path)
    for method in COMPARE.methods:
        first.add(Work(method, ("edsr", "rcan"), 0), cells_of(Work(method, ("edsr", "rcan"), 0)))
    first.add(None, {"bicubic": SCORES})
    handed_back(first, tmp_path)
    second = outcomes_in(tmp_path)
    second.add(Work("kd", ("edsr",), 1), cells_of(Work("kd", ("edsr",), 1)))
    handed_back(second, tmp_path)
    found = json.loads((tmp_path / CELLS).read_text())
    assert len(found["cells"]) == 5
    assert found["references"] == {"bicubic": SCORES}


def test_a_cell_that_fails_is_no_longer_there(tmp_path: Path) -> None:
    outcomes = outcomes_in(tmp_path)
    work = Work("kd", ("edsr", "rcan"), 0)
    outcomes.add(work, cells_of(work))
    outcomes.add(work, "ValueError: the lamp is out")
    assert outcomes.comparison().cells == []
    assert outcomes.failures == [f"kd, {student}, seed 0: ValueError: the lamp is out" for student in work.students]


def test_what_is_no_longer_asked_for_is_left_out(tmp_path: Path) -> None:
    outcomes = outcomes_in(tmp_path)
    outcomes.add(Work("kd", ("edsr",), 0), cells_of(Work("kd", ("edsr",), 0)))
    outcomes.add(Work("scratch", ("edsr",), 0), cells_of(Work("scratch", ("edsr",), 0)))
    handed_back(outcomes, tmp_path)
    fewer = outcomes_in(tmp_path, dataclasses.replace(COMPARE, methods=["kd"]))
    assert [cell.method for cell in fewer.comparison().cells] == ["kd"]


def test_files_do_not_depend_on_what_ended_first(tmp_path: Path) -> None:
    works = [Work(method, ("edsr",), seed) for method in COMPARE.methods for seed in COMPARE.seeds]
    texts = []
    for name, order in (("one", works), ("other", works[::-1])):
        outcomes = outcomes_in(tmp_path / name)
        for work in order:
            outcomes.add(work, cells_of(work))
        (tmp_path / name).mkdir()
        handed_back(outcomes, tmp_path / name)
        texts.append([(tmp_path / name / file).read_text() for file in (TABLES, "scores.csv", CELLS)])
    assert texts[0] == texts[1]
    rows = csv.DictReader(io.StringIO(texts[0][1]))
    assert [(row["method"], row["seed"]) for row in rows][::2] == [(m, str(s)) for m in COMPARE.methods for s in (0, 1)]


def test_references_that_failed_are_a_failure(tmp_path: Path) -> None:
    outcomes = outcomes_in(tmp_path)
    outcomes.add(None, "ValueError: no light")
    assert outcomes.failures == ["references: ValueError: no light"]


def test_the_set_up_says_only_what_is_in_force(tmp_path: Path) -> None:
    outcomes = outcomes_in(tmp_path)
    outcomes.add(Work("kd", ("edsr",), 0), cells_of(Work("kd", ("edsr",), 0)))
    assert "aggregator" not in outcomes.comparison().settings
    with_mtkd = outcomes_in(tmp_path, dataclasses.replace(COMPARE, methods=["mtkd"]))
    assert "aggregator" in with_mtkd.comparison().settings


def test_nothing_is_written_where_no_cell_is_there(tmp_path: Path) -> None:
    assert handed_back(outcomes_in(tmp_path), tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cell", "num_gpus", "gpus", "expected"),
    [
        (CellConfig(), None, 0, (0.0, None)),
        (CellConfig(), None, 8, (1.0, 8)),
        (CellConfig(), 2, 8, (1.0, 2)),
        (CellConfig(gpus=0.3), 1, 8, (0.3, 3)),
        (CellConfig(gpus=0), 0, 8, (0.0, None)),
    ],
)
def test_no_more_cells_than_gpus_of_the_comparison_run_at_a_time(
    cell: CellConfig, num_gpus: int | None, gpus: int, expected: tuple[float, int | None]
) -> None:
    room = room_of(dataclasses.replace(COMPARE, cell=cell, num_gpus=num_gpus), Resources(16, gpus))
    assert (room.cell.gpus, room.concurrent) == expected


def test_a_cell_that_finds_no_room_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"4 CPUs .* the cluster has 2 CPUs"):
        room_of(dataclasses.replace(COMPARE, cell=CellConfig(cpus=4)), Resources(2, 0))
