"""The whole command with rendered teacher answers, on one logical GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mtkd_dist import habits, launch
from mtkd_dist.models import build_network, digest_file, load_strict, read_state_dict, save_network
from tests.nets import TINY, TINY_AGGREGATOR, make_teacher, train_teacher, write_photos

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]  # whole launches


class Launched:
    def __init__(self, folder: Path) -> None:
        self.folder, self.answers = folder, folder / "answers"
        write_photos(folder / "train", 4)
        write_photos(folder / "held", 1, side=48)
        teachers = [train_teacher(folder, "a"), make_teacher(folder, "b")]
        # Another file with nearly the same weights: a second training would give the very same.
        weights = {name: 1.001 * tensor for name, tensor in read_state_dict(teachers[0].path).items()}
        second = build_network(TINY, 2)
        load_strict(second, weights, "b")
        save_network(teachers[1].path, second, {"network": TINY, "scale": "2"})
        training = {"steps": 2, "batch_size": 4, "patch": 8, "checkpoint_every": 2, "validate_every": 0, "ema": 0.5}
        config = {
            "data": [str(folder / "train")],
            "test": [f"held={folder / 'held'}"],
            "teachers": [str(teacher.path) for teacher in teachers],
            "student": TINY,
            "aggregator": TINY_AGGREGATOR,
            "scale": 2,
            "link": {"slot_size": 1},
            "answers": {"folder": str(self.answers)},
            "aggregate": training,
            "distil": training,
            "num_gpus": 1,
        }
        self.file = folder / "run.yaml"
        self.file.write_text(yaml.safe_dump(config))

    def launch(self, name: str, *more: str) -> int:
        return launch.main(["--config", str(self.file), "--output", str(self.folder / name), *more])

    def manifest(self, name: str, stage: str) -> dict[str, dict[str, object]]:
        return json.loads((self.folder / name / stage / "manifest.json").read_text())

    def rendered(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.answers.rglob("*.npy")}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Launched:
    launched = Launched(tmp_path_factory.mktemp("cached"))
    assert launched.launch("first", "--teacher-outputs", "cached") == 0
    return launched


def test_it_ends_with_the_same_files_as_with_live_teachers(launched: Launched) -> None:
    for name in ("config.yaml", "scores.json", "aggregator.safetensors", "student.safetensors"):
        assert (launched.folder / "first" / name).is_file(), name


def test_every_photograph_is_rendered_once_for_each_teacher_and_once_for_the_aggregator(launched: Launched) -> None:
    photographs = launched.manifest("first", "answers/teachers")["summary"]["images"]
    assert launched.manifest("first", "answers/aggregate")["summary"]["images"] == photographs / 2  # type: ignore[operator]
    assert len(launched.rendered()) == 1.5 * photographs  # type: ignore[operator]
    assert len(list(launched.answers.glob("*/index.json"))) == 3


def test_there_is_no_teacher_pool_and_weights_say_what_they_learned_from(launched: Launched) -> None:
    for stage in ("aggregate", "distil"):
        manifest = launched.manifest("first", stage)
        assert manifest["summary"]["pools"].keys() == {"students"}  # type: ignore[attr-defined]
        assert manifest["inputs"]["teacher_outputs"]["dtype"] == "float16"  # type: ignore[index]
        assert "wire" not in manifest["inputs"]


def test_a_run_in_another_folder_renders_nothing_and_ends_with_the_same_weights(
    launched: Launched, capfd: pytest.CaptureFixture[str]
) -> None:
    before = launched.rendered()
    assert launched.launch("second", "--teacher-outputs", "cached") == 0
    assert launched.rendered() == before
    screen = capfd.readouterr().out
    assert "answers/aggregate: all 3 images are there" in screen
    assert "on 1 student worker (1 GPU each)" in screen
    for name in ("aggregator.safetensors", "student.safetensors"):
        assert digest_file(launched.folder / "first" / name) == digest_file(launched.folder / "second" / name)


def test_too_little_room_is_refused_before_anything_is_rendered(
    launched: Launched, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--answers.max-bytes", "1000", "--answers.folder", str(tmp_path)]
    assert launched.launch("small", "--teacher-outputs", "cached", *flags) == habits.EXIT_FAILED
    assert "answers.max_bytes allows 1.0 kB" in " ".join(capfd.readouterr().err.split())
    assert not list(tmp_path.rglob("*.npy"))


def test_auto_says_what_both_cost_and_keeps_what_it_chose(
    launched: Launched, capfd: pytest.CaptureFixture[str]
) -> None:
    aggregator = launched.folder / "first" / "aggregator.safetensors"
    # Ten times as many pixels in samples as in photographs.
    flags = ["--distil.batch-size", "64", "--distil.patch", "16", "--answers.dtype", "uint8"]
    flags += ["--teacher-outputs", "auto", "--aggregator", str(aggregator)]
    assert launched.launch("auto", *flags) == 0
    screen = " ".join(capfd.readouterr().out.split())
    assert "answers: live costs" in screen
    assert "cached is taken" in screen
    assert "answers/aggregate: uint8 costs aggregate" in screen
    rounding = launched.manifest("auto", "answers/aggregate")["summary"]["rounding"]
    # Rounding to 256 levels, evenly spread: 20 log10(255) + 10 log10(12) = 58.92 dB.
    assert rounding["aggregate"]["psnr_db"] == pytest.approx(58.92, abs=1)  # type: ignore[index]
    assert launched.launch("auto", *flags) == 0
    screen = " ".join(capfd.readouterr().out.split())
    assert "answers: cached, as distil was trained before" in screen
    assert "distil: done before" in screen
