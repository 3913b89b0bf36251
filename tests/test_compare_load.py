"""From words to the configuration of a comparison, and what is refused before anything starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtkd_dist.cli import main
from mtkd_dist.compare.check import check_compare, check_unchanged
from mtkd_dist.compare.load import base_config, load_compare
from mtkd_dist.compare.tree import METHODS, PRESETS
from mtkd_dist.config.load import ConfigError
from mtkd_dist.models import build_network, count_params

DEMO = PRESETS["demo"]


def test_without_words_it_is_the_demo_with_all_methods() -> None:
    compare = load_compare([])
    assert compare == DEMO
    assert compare.methods == list(METHODS)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_a_launch_that_there_is(preset: str) -> None:
    base = base_config(load_compare(["--preset", preset]))
    assert base.preset == PRESETS[preset].launch["preset"]


def test_the_recipe_of_the_paper_has_the_students_of_the_paper() -> None:
    (students,) = {tuple(PRESETS[f"paper-x{scale}"].students) for scale in (2, 3, 4)}
    assert [count_params(build_network(student, 4)) for student in students] == [1_517_571, 5_171_315, 929_628]


def test_flags_reach_into_what_all_cells_share() -> None:
    compare = load_compare(["--seeds", "3", "4", "--methods", "kd", "mean", "--launch.distil.steps", "7"])
    assert (compare.seeds, compare.methods) == ([3, 4], ["kd", "mean"])
    assert base_config(compare).distil.steps == 7


def test_a_file_names_preset_and_cells(tmp_path: Path) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump({"preset": "paper-x2", "seeds": [5], "launch": {"data": ["photos"]}}))
    compare = load_compare(["--config", str(file)])
    assert (compare.seeds, compare.students) == ([5], PRESETS["paper-x2"].students)
    assert base_config(compare).data == ["photos"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--preset", "dmeo"], "Did you mean 'demo'"),
        (["--methods", "kd", "fkad"], "fakd"),
        (["--seeds", "0", "x"], "seeds: 'x' is not a whole number"),
        (["--launch.method", "kd"], "launch.method: methods are compared"),
        (["--launch.seed", "1"], "launch.seed: cells have the comparison's own `seeds`"),
        (["--launch.cluster.student_workers", "2"], "launch.cluster.student_workers: the comparison"),
    ],
)
def test_words_that_make_no_sense_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        base_config(load_compare(words))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"students": []}, "students: .* at least one"),
        ({"seeds": [1, 1]}, "seeds: .* each of them once"),
        ({"seeds": [-1]}, "seeds"),
        ({"students": ["edsr-baseline", "edsr-baseline:width=64"]}, "^students: .*:width=64' is there twice"),
        ({"students": ["edsr-baselin"]}, "^students: .*Did you mean 'edsr-baseline'"),
        ({"launch": {"preset": "demo-compare", "teachers": []}}, "^launch.teachers: .*at least one file or network"),
        ({"launch": {"preset": "demo-compare", "at": {"taps": ["nowhere"]}}}, "^launch.at.taps: .*no tap 'nowhere'"),
        ({"launch": {"preset": "demo-compare", "distil": {"patch": 25}}}, "^launch.distil.patch: 25 LR pixels cannot"),
        (
            {"launch": {"preset": "demo-compare", "loss": {"teacher_weights": [1, 2]}}},
            "^launch.loss.teacher_weights: .*expected 3 numbers",
        ),
        ({"num_gpus": -1}, "^num_gpus"),
    ],
)
def test_a_comparison_that_cannot_work_is_refused(changes: dict[str, Any], told: str) -> None:
    compare = dataclasses.replace(DEMO, **changes)
    with pytest.raises(ConfigError, match=told):
        check_compare(compare, base_config(compare))


def test_scratch_alone_has_no_teachers() -> None:
    compare = dataclasses.replace(DEMO, methods=["scratch"])
    check_compare(compare, base_config(compare))
    assert base_config(compare).teachers == []


def test_cells_may_be_added_and_settings_that_all_share_may_not_change(tmp_path: Path) -> None:
    file = tmp_path / "compare.yaml"
    check_unchanged(DEMO, file)
    file.write_text(yaml.safe_dump(dataclasses.asdict(DEMO)))
    check_unchanged(dataclasses.replace(DEMO, seeds=[0, 1, 2], methods=["kd"]), file)
    with pytest.raises(ConfigError, match=r"launch.distil.steps: 200 -> 7"):
        check_unchanged(dataclasses.replace(DEMO, launch={**DEMO.launch, "distil": {"steps": 7}}), file)


@pytest.mark.parametrize(
    "launch",
    [
        {"distil": {"steps": 200}},  # the default, spelled out
        {"distil.steps": "200"},
        {"on_change": "restart"},
        {"images": {"on_bad": "skip"}},
        {"answers": {"folder": "elsewhere"}},
        {"test": ["more=photos"]},
        {"distil": {"checkpoint_every": 7}},
    ],
)
def test_what_no_cell_depends_on_may_change(launch: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump(dataclasses.asdict(DEMO)))
    check_unchanged(dataclasses.replace(DEMO, launch={**DEMO.launch, **launch}), file)


def test_the_command_says_what_is_wrong_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--methods", "fkad"]) == 2
    assert capsys.readouterr().err.startswith("error: methods: ")
