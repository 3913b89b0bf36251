"""A launch whose photographs, weights and output are URLs, on two machines one after the other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mtkd_dist import evaluate, habits, launch
from mtkd_dist.pools.cluster import unseen
from tests.nets import TINY, make_aggregator, nearest_teacher, write_photos
from tests.objects import Objects

URL = "objects://bucket/runs/x"

pytestmark = pytest.mark.usefixtures("ray_cluster")


def given(folder: Path) -> list[str]:
    """Put photographs and weights into the object store; returns the flags of a launch."""
    write_photos(folder / "train", 4)
    write_photos(folder / "held", 2, side=48)
    teacher = nearest_teacher(folder, "given")
    aggregator = make_aggregator(folder, [teacher])
    store = Objects()
    for photo in [*(folder / "train").iterdir(), *(folder / "held").iterdir()]:
        store.put_file(str(photo), f"objects://bucket/data/{photo.parent.name}/{photo.name}")
    store.put_file(str(teacher.path), "objects://bucket/given.safetensors")
    store.put_file(str(aggregator), "objects://bucket/aggregator.safetensors")
    flags = ["--data", "objects://bucket/data/train", "--test", "held=objects://bucket/data/held", "--scale", "2"]
    flags += ["--teachers", "objects://bucket/given.safetensors", "--student", TINY]
    flags += ["--aggregator", "objects://bucket/aggregator.safetensors", "--link.slot-size", "1"]
    for key, value in {"steps": 4, "batch-size": 4, "patch": 8, "checkpoint-every": 2, "validate-every": 2}.items():
        flags += [f"--distil.{key}", str(value)]
    return [*flags, "--output", URL]


@pytest.mark.slow
def test_a_run_by_url_is_done_before_on_another_machine(
    objects: type[Objects], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = given(tmp_path)
    assert launch.main(flags) == 0, capfd.readouterr().out
    screen = capfd.readouterr().out
    assert f"output {URL}" in screen
    assert f"{URL}/student.safetensors" in screen
    scores = Objects().cat_file(f"{URL}/scores.json")
    assert [row["set"] for row in json.loads(scores)] == ["held"] * 5
    held = {name.removeprefix("/bucket/runs/x/").split("/")[0] for name in Objects().find(URL)}
    assert {"student.safetensors", "config.yaml", "launch.log", "mlflow.db", "distil", "samples"} <= held
    assert "images" not in held
    assert URL.encode() in Objects().cat_file(f"{URL}/config.yaml")
    student = Objects().cat_file(f"{URL}/student.safetensors")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache of another machine"))
    assert launch.main(flags) == 0
    screen = capfd.readouterr().out
    assert "bringing down" in screen
    for stage in ("teachers/given: checked before", "aggregate: taken before", "distil: done before"):
        assert stage in screen
    assert Objects().cat_file(f"{URL}/student.safetensors") == student
    assert Objects().cat_file(f"{URL}/scores.json") == scores


def test_models_and_photographs_to_score_may_be_urls(
    objects: type[Objects], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given(tmp_path)
    flags = ["objects://bucket/given.safetensors:name=G", "--data", "objects://bucket/data/held", "--workers", "1"]
    assert evaluate.main(flags) == 0
    screen = capfd.readouterr().out
    assert "2 of held at x2" in screen
    assert "G" in screen


def test_a_url_that_cannot_be_read_is_wrong_usage_with_its_key(
    objects: type[Objects], capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["--data", "objects://bucket/none"]) == habits.EXIT_USAGE
    assert "error: data: objects://bucket/none does not exist" in capfd.readouterr().err
    assert launch.main(["--output", "objcts://bucket/x"]) == habits.EXIT_USAGE
    assert "error: output: objcts://bucket/x cannot be used" in capfd.readouterr().err


def test_an_output_url_that_does_not_answer_is_told_before_anything_runs(
    objects: type[Objects], capfd: pytest.CaptureFixture[str]
) -> None:
    Objects.down = True
    assert launch.main(["--output", URL]) == habits.EXIT_FAILED
    assert f"error: output: {URL} cannot be used (ConnectionError: the object store does not answer)" in " ".join(
        capfd.readouterr().err.split()
    )


def test_a_node_that_does_not_see_a_path_is_named_with_it(tmp_path: Path) -> None:
    assert unseen([tmp_path]) == {}
    with tmp_path.joinpath("of this process alone").open("w") as file:
        hidden = Path(f"/proc/self/fd/{os.dup2(file.fileno(), 777)}")
        try:
            (missing,) = unseen([tmp_path, hidden]).values()
        finally:
            os.close(777)
    assert missing == [str(hidden)]
