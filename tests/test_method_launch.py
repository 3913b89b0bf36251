"""The whole command with methods that have no aggregator, on four logical GPUs, in one folder one after the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from mtkd_dist import launch
from mtkd_dist.models import load_network, read_metadata
from tests.nets import TINY, nearest_teacher, train_teacher, write_photos
from tests.test_own_method import SOURCE


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_one_configuration_serves_methods_with_and_without_teachers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    write_photos(tmp_path / "train", 4)
    write_photos(tmp_path / "held", 1, side=48)
    teachers = [nearest_teacher(tmp_path, name) for name in "ab"]
    config = {
        "output": str(output),
        "data": [str(tmp_path / "train")],
        "test": [f"held={tmp_path / 'held'}"],
        "teachers": [str(teacher.path) for teacher in teachers],
        "aggregator": str(tmp_path / "absent.safetensors"),
        "student": TINY,
        "scale": 2,
        "link": {"slot_size": 2},
        "distil": {"steps": 2, "batch_size": 4, "patch": 8, "validate_every": 0, "ema": 0.5},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "best.py").write_text(SOURCE)
    split = ["--num-gpus", "2", "--teacher-gpus", "1", "--student-gpus", "1"]
    for flags, roles in (
        (["--method", "scratch"], ["bicubic", "student"]),
        (["--method", "kd", *split], ["bicubic", "teacher", "teacher", "mean", "student"]),
        (["--method", "mean", "--teacher-outputs", "auto"], ["bicubic", "teacher", "teacher", "mean", "student"]),
        (["--method", f"{tmp_path / 'best.py'}:weight=2"], ["bicubic", "teacher", "teacher", "mean", "student"]),
    ):
        assert launch.main(["--config", str(tmp_path / "run.yaml"), *flags]) == 0
        method = "best:weight=2" if "best.py" in flags[1] else flags[1]
        screen = " ".join(capfd.readouterr().out.split())
        assert f"aggregate: left out, {method} needs no aggregator" in screen
        assert ("not used, scratch learns from the truth alone" in screen) == (method == "scratch")
        assert ("distil: runs again, because of" in screen) == (method != "scratch")
        assert [row["role"] for row in json.loads((output / "scores.json").read_text())] == roles
        assert read_metadata(output / "student.safetensors")["method"] == method
        assert not (output / "aggregate").exists()
        assert not (output / "aggregator.safetensors").exists()
        assert yaml.safe_load((output / "config.yaml").read_text())["teachers"] == config["teachers"]
        pools = json.loads((output / "distil" / "manifest.json").read_text())["summary"]["pools"]
        # With auto, teachers answer as they did for the student before.
        assert pools.keys() == ({"students"} if method == "scratch" else {"students", "teachers"})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_crosskd_trains_with_the_teachers_tails_on_two_ranks_and_ships_the_student(tmp_path: Path) -> None:
    output = tmp_path / "run"
    write_photos(tmp_path / "train", 4)
    write_photos(tmp_path / "held", 1, side=48)
    config = {
        "output": str(output),
        "data": [str(tmp_path / "train")],
        "test": [f"held={tmp_path / 'held'}"],
        "teachers": [str(train_teacher(tmp_path, "a").path)],
        "student": "edsr-baseline:width=12,blocks=2",
        "scale": 2,
        "link": {"slot_size": 2},
        "distil": {"steps": 4, "batch_size": 4, "patch": 8, "validate_every": 2, "checkpoint_every": 2, "ema": 0.5},
        "images": {"held_out_names": ["00.png"]},
        "method": "crosskd",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    split = ["--num-gpus", "3", "--teacher-gpus", "1", "--student-gpus", "2"]
    assert launch.main(["--config", str(tmp_path / "run.yaml"), *split]) == 0
    loaded = load_network(output / "student.safetensors", scale=2)
    assert loaded.architecture == config["student"]
    assert read_metadata(output / "student.safetensors")["method"] == "crosskd"
    summary = json.loads((output / "distil" / "manifest.json").read_text())["summary"]
    assert summary["validation"]["step"] == 4
    roles = [row["role"] for row in json.loads((output / "scores.json").read_text())]
    assert roles == ["bicubic", "teacher", "mean", "student"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_several_students_learn_from_one_stream_of_answers_on_two_ranks_as_each_would_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "train", 4)
    write_photos(tmp_path / "held", 1, side=48)
    networks = {
        "student": TINY,
        "student-swinir-light-width-12-groups-3-layers-1-heads-2": "swinir-light:width=12,groups=3,layers=1,heads=2",
    }
    config = {
        "data": [str(tmp_path / "train")],
        "test": [f"held={tmp_path / 'held'}"],
        "teachers": [str(nearest_teacher(tmp_path, name).path) for name in "ab"],
        "scale": 2,
        "link": {"slot_size": 2},
        "distil": {"steps": 4, "batch_size": 4, "patch": 8, "validate_every": 2, "ema": 0.5, "clip_grad": 0.1},
        "images": {"held_out_names": ["00.png"]},
        "method": "kd",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    split = ["--num-gpus", "3", "--teacher-gpus", "1", "--student-gpus", "2"]

    def run(folder: str, student: str, more: list[str]) -> Path:
        flags = [
            "--output",
            str(tmp_path / folder),
            "--student",
            student,
            *(["--more-students", *more] if more else []),
        ]
        assert launch.main(["--config", str(tmp_path / "run.yaml"), *flags, *split]) == 0
        return tmp_path / folder

    together = run("together", TINY, list(networks.values())[1:])
    screen = capfd.readouterr().out
    rows = json.loads((together / "scores.json").read_text())
    assert [row["model"] for row in rows if row["role"] == "student"] == list(networks)
    summary = json.loads((together / "distil" / "manifest.json").read_text())["summary"]
    for title in networks:
        assert title in screen.replace("\n", "")
        prefix = "" if title == "student" else f"{title.removeprefix('student-')}/"
        assert summary["validation"][f"{prefix}best_step"] in (2, 4)
    alone = load_network(run("alone", networks[title], []) / "student.safetensors").module.state_dict()
    for key, value in load_network(together / f"{title}.safetensors").module.state_dict().items():
        assert torch.equal(value, alone[key]), key
