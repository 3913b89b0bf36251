"""The whole command, as a user types it, on four logical GPUs: one launch that several tests look at."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from mtkd_dist import habits, launch
from mtkd_dist.export import command as export
from mtkd_dist.export.source import read_source
from mtkd_dist.models import digest_file, load_network, read_metadata
from mtkd_dist.pools.cluster import sigterm_as_interrupt
from mtkd_dist.stages.run_report import gather
from tests.nets import TINY, TINY_AGGREGATOR, make_aggregator, train_teacher, write_launch, write_photos

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Launched:
    """A finished launch and the flags that repeat it."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "run"
        write_photos(folder / "train", 4)
        write_photos(folder / "held", 2, side=48)  # another size: other pictures than the training ones
        self.given = train_teacher(folder, "given")
        training = {"steps": 4, "batch_size": 4, "patch": 8, "checkpoint_every": 2, "validate_every": 2, "ema": 0.5}
        config = {
            "output": str(self.output),
            "data": [str(folder / "train")],
            "test": [f"held={folder / 'held'}"],
            "teachers": [str(self.given.path), "edsr-baseline:name=trained,width=8,blocks=1"],
            "student": TINY,
            "aggregator": TINY_AGGREGATOR,
            "scale": 2,
            "link": {"slot_size": 1},
            "teacher_training": training,
            "aggregate": training,
            "distil": training,
        }
        file = folder / "run.yaml"
        file.write_text(yaml.safe_dump(config))
        self.argv = ["--config", str(file), "--num-gpus", "4", "--teacher-gpus", "2", "--student-gpus", "2"]

    def launch(self, *more: str) -> int:
        return launch.main([*self.argv, *more])

    def manifest(self, stage: str) -> dict[str, object]:
        return json.loads((self.output / stage / "manifest.json").read_text())


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Launched:
    launched = Launched(tmp_path_factory.mktemp("launch"))
    assert launched.launch() == 0
    return launched


def test_the_output_folder_holds_all_that_the_readme_lists(launched: Launched) -> None:
    for name in (
        "config.yaml",
        "scores.json",
        "aggregator.safetensors",
        "student.safetensors",
        "launch.log",
        "mlflow.db",
        "report.html",
        "environment.json",
        "evaluate/error_bands.json",
    ):
        assert (launched.output / name).is_file(), name
    assert len(list((launched.output / "samples").glob("held-*.png"))) == 2


def test_scores_have_a_row_for_every_model_and_role(launched: Launched) -> None:
    rows = json.loads((launched.output / "scores.json").read_text())
    assert [(row["model"], row["role"]) for row in rows] == [
        ("bicubic", "bicubic"),
        ("given", "teacher"),
        ("trained", "teacher"),
        ("mean of teachers", "mean"),
        ("aggregate", "aggregate"),
        ("student", "student"),
    ]
    for row in rows:
        assert row.keys() == {"model", "role", "set", "scale", "psnr_y", "ssim_y", "params"}
        assert (row["set"], row["scale"]) == ("held", 2)
        assert 5 < row["psnr_y"] < 80


def test_the_student_loads_without_being_told_what_it_is(launched: Launched) -> None:
    loaded = load_network(launched.output / "student.safetensors")
    assert (loaded.architecture, loaded.scale) == (TINY, 2)


def test_the_aggregator_knows_its_teachers_in_their_order(launched: Launched) -> None:
    metadata = read_metadata(launched.output / "aggregator.safetensors")
    teachers = json.loads(metadata["teachers"])
    assert list(teachers) == ["given", "trained"]
    assert teachers["trained"] == digest_file(launched.output / "teachers" / "trained" / "weights.safetensors")


def test_every_stage_leaves_a_manifest_with_inputs_versions_seed_and_scores(launched: Launched) -> None:
    for stage in ("teachers/given", "teachers/trained", "aggregate", "distil", "evaluate"):
        manifest = launched.manifest(stage)
        assert manifest["inputs"], stage
        assert manifest["scores"], stage
        assert "torch" in manifest["versions"], stage  # type: ignore[operator]
        assert manifest["seed"] == 0


def test_both_pools_ran_as_asked_and_said_where_their_time_went(launched: Launched) -> None:
    pools = launched.manifest("distil")["summary"]["pools"]  # type: ignore[index]
    assert pools.keys() == {"students", "teachers"}
    for shares in pools.values():
        assert sum(shares.values()) == pytest.approx(1)
    assert (
        "2 teacher workers (1 GPU each), 2 student workers (1 GPU each)" in mlflow_params(launched, "distil")["layout"]
    )


def test_the_report_shows_all_that_was_trained_scored_and_looked_at(launched: Launched) -> None:
    facts = gather(launched.output)
    stages = {stage.name: stage for stage in facts.stages}
    assert list(stages) == ["teachers/given", "teachers/trained", "aggregate", "distil", "evaluate"]
    for name in ("teachers/trained", "aggregate", "distil"):
        past = stages[name].past
        assert [step for step, _ in past.curve("loss")] == [1, 2, 3, 4]
        assert [step for step, _ in past.curve("validation_psnr_y")] == [2, 4]
        assert past.steps[-1].pools.keys() == ({"students"} if "/" in name else {"students", "teachers"})
    assert {row["model"] for row in facts.bands} == {row["model"] for row in facts.rows}
    assert len(facts.details) == 2
    assert list(facts.details[0]["panels"]) == ["LR", *(row["model"] for row in facts.rows), "HR"]
    page = (launched.output / "report.html").read_text()
    assert page.count('<article class="detail"') == 2
    (artifact,) = (launched.output / "mlartifacts").rglob("report.html")
    assert artifact.read_text() == page


def test_every_training_was_validated_on_photographs_that_were_held_out(launched: Launched) -> None:
    for stage in ("teachers/trained", "aggregate", "distil"):
        validation = launched.manifest(stage)["summary"]["validation"]  # type: ignore[index]
        assert (validation["step"], validation["photos"]) == (4, 1)
        (best,) = (launched.output / stage).glob("checkpoints-*/best.safetensors")
        assert read_metadata(best)["step"] == str(validation["best_step"])


def test_a_finished_run_is_exported_with_all_that_is_known_of_it(launched: Launched, tmp_path: Path) -> None:
    assert export.main([str(launched.output), "--formats", "safetensors", "card", "--output", str(tmp_path)]) == 0
    assert read_source(str(launched.output)).unknown == {}
    told = read_metadata(tmp_path / "2x-run.safetensors")
    assert list(json.loads(told["teachers"])) == ["given", "trained"]
    assert json.loads(told["configuration"])["distil"]["steps"] == 4
    assert [row["model"] for row in json.loads(told["scores"])] == ["student"]
    model = json.loads((tmp_path / "2x-run.json").read_text())
    assert (model["dataset"], model["trainingIterations"]) == ("train", 4)
    assert model["datasetSize"] + 1 == 4  # one of them is held out


def test_mlflow_has_a_parent_run_with_a_child_for_each_stage(launched: Launched) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{launched.output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mtkd-dist")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"run", "teachers/given", "teachers/trained", "aggregate", "distil", "evaluate"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs["run"].info.run_id
    assert {run.data.tags.get("mlflow.parentRunId") for name, run in runs.items() if name != "run"} == {parent}
    losses = client.get_metric_history(runs["distil"].info.run_id, "loss")
    assert [metric.step for metric in losses] == [0, 1, 2, 3]
    validations = client.get_metric_history(runs["distil"].info.run_id, "validation_psnr_y")
    assert [metric.step for metric in validations] == [2, 4]
    assert "student.safetensors" in [artifact.path for artifact in client.list_artifacts(parent)]
    assert len(client.list_artifacts(runs["evaluate"].info.run_id, "images")) == 2


def test_the_student_is_a_model_version_that_says_what_it_is_and_what_it_scored(launched: Launched) -> None:
    (version,) = registered(launched)
    student = launched.output / "student.safetensors"
    (row,) = [row for row in json.loads((launched.output / "scores.json").read_text()) if row["model"] == "student"]
    scores = {"psnr_y/held": str(row["psnr_y"]), "ssim_y/held": str(row["ssim_y"])}
    assert version.tags == {"weights": digest_file(student), **read_metadata(student), **scores}
    assert version.tags.keys() > {"network", "scale", "method", "teachers"}


def test_repeating_the_command_does_nothing_again(launched: Launched, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in launched.output.rglob("*.safetensors")}
    assert launched.launch() == 0
    screen = capfd.readouterr().out
    for stage in ("teachers/trained", "aggregate", "distil", "evaluate"):
        assert f"{stage}: done before" in screen
    assert {path: path.stat().st_mtime_ns for path in launched.output.rglob("*.safetensors")} == before
    assert len(registered(launched)) == 1


@pytest.mark.slow
def test_a_changed_setting_runs_only_what_depends_on_it(launched: Launched, capfd: pytest.CaptureFixture[str]) -> None:
    assert launched.launch("--distil.steps", "2") == 0
    screen = capfd.readouterr().out
    assert "teachers/trained: done before" in screen
    assert "aggregate: done before" in screen
    assert "distil: runs again, because of distil.steps: 4 -> 2" in screen
    assert "evaluate: done before" not in screen
    assert len(registered(launched)) == 2


@pytest.mark.slow
def test_an_aggregator_of_an_earlier_run_is_used_as_it_is(
    launched: Launched, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = make_aggregator(tmp_path, [launched.given])
    flags = ["--teachers", str(launched.given.path), "--aggregator", str(given)]
    for said in ("aggregate: nothing to train", "aggregate: taken before"):
        assert launched.launch(*flags, "--output", str(tmp_path / "run")) == 0
        assert said in capfd.readouterr().out
    assert digest_file(tmp_path / "run" / "aggregator.safetensors") == digest_file(given)
    manifest = json.loads((tmp_path / "run" / "aggregate" / "manifest.json").read_text())
    assert manifest["inputs"]["file"] == digest_file(given)
    assert [row["model"] for row in manifest["scores"]] == ["aggregate"]


@pytest.mark.slow
def test_one_gpu_is_shared_by_both_pools(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = write_launch(tmp_path, photos=4, steps=4, batch_size=4, checkpoint_every=4)
    assert launch.main(["--config", str(config), "--output", str(tmp_path / "run"), "--num-gpus", "1"]) == 0
    screen = " ".join(capfd.readouterr().out.split())
    assert "on 1 teacher worker (0.5 GPU each), 1 student worker (0.5 GPU each)" in screen
    assert "both pools took turns on one device" in screen


@pytest.mark.slow
def test_the_command_of_the_readme_in_a_process_of_its_own(launched: Launched, tmp_path: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "mtkd_dist.launch", *launched.argv, "--cluster.address", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cluster  8 CPUs, 4 GPUs" in done.stdout
    assert "aggregate: done before" in done.stdout
    assert "PSNR-Y" in done.stdout
    assert done.stderr == ""


def test_sigterm_is_an_interrupt_although_ray_has_a_handler_of_its_own() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_two_launches_into_one_folder_are_refused(launched: Launched, capfd: pytest.CaptureFixture[str]) -> None:
    with (launched.output / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert launched.launch() == habits.EXIT_FAILED
    assert "another launch is at work" in capfd.readouterr().err


def test_more_gpus_than_there_are_is_refused_with_what_is_there(
    launched: Launched, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launched.launch("--num-gpus", "8") == habits.EXIT_USAGE
    assert "--num-gpus 8: this cluster has 4 GPUs" in " ".join(capfd.readouterr().err.split())


def test_a_corrupt_photograph_is_named_before_anything_is_trained(
    launched: Launched, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    flags = ["--data", str(tmp_path / "photos"), "--output", str(tmp_path / "run")]
    assert launched.launch(*flags) == habits.EXIT_FAILED
    screen, error = capfd.readouterr()
    assert "torn.png" in error
    assert "steps" not in screen


def mlflow_params(launched: Launched, run_name: str) -> dict[str, str]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{launched.output / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mtkd-dist")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{run_name}'")
    return run.data.params


def registered(launched: Launched) -> list[Any]:
    """The versions of the launch's student."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{launched.output / 'mlflow.db'}")
    return client.search_model_versions("name = 'mtkd-run-student'")
