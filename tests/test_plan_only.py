"""`--plan-only`, on four logical GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mtkd_dist import launch
from mtkd_dist.train import probe
from tests.nets import TINY, TINY_AGGREGATOR, write_photos


@pytest.mark.usefixtures("ray_cluster")
def test_plan_only_shows_every_split_of_both_stages_and_trains_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "BUDGET_SECONDS", 0.05)
    output = tmp_path / "run"
    write_photos(tmp_path / "train", 4)
    training = {"steps": 3, "batch_size": 4, "patch": 8}
    config = {
        "output": str(output),
        "data": [str(tmp_path / "train")],
        "teachers": [f"edsr-baseline:name={name},width=8,blocks=1" for name in ("one", "two")],
        "student": TINY,
        "aggregator": TINY_AGGREGATOR,
        "scale": 2,
        "link": {"slot_size": 1},
        "aggregate": training,
        "distil": training,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert launch.main(["--config", str(tmp_path / "run.yaml"), "--plan-only", "--num-gpus", "4"]) == 0

    screen = capfd.readouterr().out
    assert screen.count("◄ chosen") == 2
    for words in ("aggregate: 3 steps of 4 images", "distil: 3 steps of 4 images", "teacher one", "teacher two"):
        assert words in screen
    assert sorted(path.name for path in output.iterdir() if path.is_dir()) == ["images", "mlartifacts"]
    assert "plan_only: false" in (output / "config.yaml").read_text()
    plans = json.loads((output / "plan.json").read_text())
    for plan in plans.values():
        assert [(one["split"]["teachers"], one["split"]["students"]) for one in plan["splits"]] == [(3, 1), (2, 2)]
        assert plan["chosen"] in plan["splits"]
        assert plan["costs"]["teachers"].keys() == {"one", "two"}
    assert plans["aggregate"]["costs"]["aggregator"] == 0
    assert plans["distil"]["costs"]["aggregator"] > 0
