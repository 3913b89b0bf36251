"""Whole sweeps on logical GPUs: the command, Ray Tune and the trials' processes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
import yaml
from ray.util import placement_group_table

from mtkd_dist import launch
from mtkd_dist.habits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from mtkd_dist.models import read_state_dict
from mtkd_dist.train.audit import audit
from mtkd_dist.train.checkpoints import Checkpoints
from mtkd_dist.train.consumption import read_logs
from mtkd_tune import sweep
from mtkd_tune.rows import TrialRow
from mtkd_tune.sweep import was_interrupted
from tests.nets import TINY, TINY_AGGREGATOR, nearest_teacher, train_teacher, write_photos

TRAINING = {"batch_size": 4, "patch": 8, "ema": 0.5, "checkpoint_every": 5, "validate_every": 5}
SEARCH: dict[str, Any] = {"loss.levels": {"choice": [1, 2]}, "distil.learning_rate": {"loguniform": [1e-4, 1e-2]}}


class Sweeps:
    """Sweeps of nearly nothing, with the same photographs and teachers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_photos(folder / "train", 4)
        teachers = [train_teacher(folder, "a"), nearest_teacher(folder, "b")]
        self.launch = {
            "data": [str(folder / "train")],
            "test": [],
            "teachers": [str(teacher.path) for teacher in teachers],
            "student": TINY,
            "aggregator": TINY_AGGREGATOR,
            "scale": 2,
            "link": {"slot_size": 2},
            "images": {"held_out": 0.25},
            "answers": {"folder": str(folder / "answers")},
            "aggregate": TRAINING | {"steps": 5},
            "distil": TRAINING | {"steps": 10},
        }

    def flags(self, name: str, search: dict[str, Any] = SEARCH, **launch: Any) -> list[str]:
        """The words of a command; `launch` changes keys of the launch's configuration."""
        settings: dict[str, Any] = {"launch": self.launch | launch, "search": search, "output": str(self.folder / name)}
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(settings))
        return ["--config", str(file)]

    def rows(self, name: str) -> dict[str, dict[str, str]]:
        """Of trials.csv, by trial."""
        with (self.folder / name / "trials.csv").open() as file:
            return {row["trial"]: row for row in csv.DictReader(file)}

    def aggregators(self, name: str) -> list[str]:
        return [path.name for path in (self.folder / name / "aggregators").iterdir()]


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    return Sweeps(tmp_path_factory.mktemp("sweeps"))


def is_done(trial: Path) -> bool:
    return (trial / "distil" / "manifest.json").exists()


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def nothing_is_reserved() -> bool:
    total, free = ray.cluster_resources(), ray.available_resources()
    return all(free.get(name, 0) == total[name] for name in ("CPU", "GPU")) and not groups()


def groups() -> list[dict[str, float]]:
    """What each placement group holds or waits for that is not removed."""
    found = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    return [bundle for group in found for bundle in group["bundles"].values()]


def taken() -> tuple[float, float]:
    """CPUs and GPUs."""
    total, free = ray.cluster_resources(), ray.available_resources()
    return total["CPU"] - free.get("CPU", 0), total["GPU"] - free.get("GPU", 0)


def run_watched(flags: list[str], watch: Callable[[], None]) -> int:
    """Exit status of a sweep in this thread, the only one that may handle signals; `watch` runs in another."""
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        status = sweep.main(flags)
        watching.result()
    return status


@pytest.mark.usefixtures("ray_cluster")
def test_two_trials_take_turns_on_one_gpu_share_what_is_costly_and_leave_nothing_reserved(sweeps: Sweeps) -> None:
    flags = sweeps.flags("turns")
    assert sweep.main([*flags, "--num-samples", "2", "--num-gpus", "1", "--scheduler", "none"]) == EXIT_OK
    wait_for(nothing_is_reserved)
    rows = sweeps.rows("turns")
    assert [row["status"] for row in rows.values()] == ["done", "done"]
    assert [row["step"] for row in rows.values()] == ["10", "10"]
    assert len(sweeps.aggregators("turns")) == 1
    assert sorted(row["aggregator_trained"] for row in rows.values()) == ["false", "true"]
    first, second = (sweeps.folder / "turns" / "trials" / name / "distil" for name in rows)
    (began,) = second.glob("checkpoints-*/inputs.json")
    assert (first / "manifest.json").stat().st_mtime < began.stat().st_mtime
    best = yaml.safe_load((sweeps.folder / "turns" / "best.yaml").read_text())
    row = max(rows.values(), key=lambda row: float(row["psnr_y_db"]))
    assert best["loss"]["levels"] == int(row["loss.levels"])
    assert best["distil"]["learning_rate"] == float(row["distil.learning_rate"])


@pytest.mark.usefixtures("ray_cluster")
def test_two_trials_of_half_a_gpu_run_side_by_side_on_one_and_leave_nothing_reserved(sweeps: Sweeps) -> None:
    flags = [*sweeps.flags("halves"), "--num-samples", "2", "--num-gpus", "1", "--trial.gpus", "0.5"]
    trials = [sweeps.folder / "halves" / "trials" / f"trial-{i:04d}" for i in (1, 2)]

    def both_at_work() -> bool:
        at_work = all(trial.exists() for trial in trials) and not any(map(is_done, trials))
        return at_work and taken() == (2, 1) and groups() == [{"CPU": 1, "GPU": 0.5}] * 2

    assert run_watched([*flags, "--scheduler", "none"], lambda: wait_for(both_at_work)) == EXIT_OK
    wait_for(nothing_is_reserved)
    assert [row["status"] for row in sweeps.rows("halves").values()] == ["done", "done"]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("ending", ["done", "failed"])
def test_what_a_trial_held_is_free_while_the_next_one_runs(sweeps: Sweeps, ending: str) -> None:
    name = f"next-{ending}"
    flags = [*sweeps.flags(name), "--num-samples", "2", "--num-gpus", "1", "--trial.retries", "0"]
    first, second = (sweeps.folder / name / "trials" / f"trial-{i:04d}" for i in (1, 2))

    def watch() -> None:
        if ending == "failed":
            wait_for(first.exists)
            (process,) = children(os.getpid(), "^ray::ImplicitFunc")
            os.kill(process, signal.SIGKILL)
        wait_for(second.exists)
        (process,) = children(os.getpid(), "^ray::ImplicitFunc")
        os.kill(process, signal.SIGSTOP)
        try:
            assert is_done(first) == (ending == "done")
            wait_for(lambda: taken() == (1, 1) and groups() == [{"CPU": 1, "GPU": 1}])
            assert not is_done(second)
        finally:
            os.kill(process, signal.SIGCONT)

    assert run_watched([*flags, "--scheduler", "none"], watch) == EXIT_OK
    wait_for(nothing_is_reserved)
    assert [row["status"] for row in sweeps.rows(name).values()] == [ending, "done"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_best_configuration_launches_without_teachers_work(sweeps: Sweeps) -> None:
    if not (sweeps.folder / "turns" / "best.yaml").exists():
        assert sweep.main([*sweeps.flags("turns"), "--num-samples", "2", "--num-gpus", "1"]) == EXIT_OK
    before = {path: path.stat().st_mtime_ns for path in (sweeps.folder / "answers").rglob("*.npy")}
    assert launch.main(["--config", str(sweeps.folder / "turns" / "best.yaml"), "--num-gpus", "1"]) == EXIT_OK
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (sweeps.folder / "turns-best" / "student.safetensors").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_asha_stops_trials_and_frees_what_they_had(sweeps: Sweeps) -> None:
    flags = sweeps.flags("asha", {"distil.learning_rate": {"choice": [1e-2, 1e-9]}}, distil=TRAINING | {"steps": 40})
    more = ["--num-samples", "6", "--num-gpus", "2", "--asha.grace-steps", "10", "--asha.reduction-factor", "2"]
    assert sweep.main([*flags, *more, "--sampler", "random"]) == EXIT_OK
    wait_for(nothing_is_reserved)
    rows = sweeps.rows("asha")
    stopped = [row for row in rows.values() if row["status"] == "stopped"]
    assert len(rows) == 6
    assert stopped
    assert all(int(row["step"]) < 40 for row in stopped)
    done = [row["trial"] for row in rows.values() if row["status"] == "done"]
    assert done
    assert all((sweeps.folder / "asha" / "trials" / name / "student.safetensors").exists() for name in done)
    assert json.loads((sweeps.folder / "asha" / "cost.json").read_text())["trials"]["stopped"] == len(stopped)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_that_fails_again_and_again_is_reported_with_its_reason_and_the_others_go_on(sweeps: Sweeps) -> None:
    flags = sweeps.flags("fails", {"distil.learning_rate": {"choice": [1e-3, 1e30]}})
    more = ["--num-samples", "4", "--num-gpus", "1", "--scheduler", "none", "--sampler", "random", "--seed", "1"]
    assert sweep.main([*flags, *more]) == EXIT_OK
    rows = sweeps.rows("fails")
    failed = [row for row in rows.values() if row["status"] == "failed"]
    done = [row for row in rows.values() if row["status"] == "done"]
    assert len(failed) + len(done) == 4
    assert failed
    assert done
    for row in failed:
        assert float(row["distil.learning_rate"]) == 1e30
        assert row["starts"] == "2"
        assert "not finite" in row["error"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_all_of_whose_trials_fail_fails(sweeps: Sweeps) -> None:
    flags = sweeps.flags("all-fail", {"distil.learning_rate": {"choice": [1e30]}})
    assert sweep.main([*flags, "--num-samples", "1", "--trial.retries", "0", "--scheduler", "none"]) == EXIT_FAILED
    assert "not finite" in sweeps.rows("all-fail")["trial-0001"]["error"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_params_against_psnr_gives_a_front(sweeps: Sweeps) -> None:
    flags = sweeps.flags("front", {"student.width": {"choice": [4, 8, 12]}, "student.blocks": {"int": [1, 2]}})
    more = ["--num-samples", "4", "--num-gpus", "2", "--scheduler", "none", "--objectives", "psnr_y", "params"]
    assert sweep.main([*flags, *more]) == EXIT_OK
    folder = sweeps.folder / "front"
    assert (folder / "front.md").read_text().count("trial-") >= 1
    assert (folder / "front.png").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_launch_of_the_schedule_that_a_population_found_ends_bit_equal(sweeps: Sweeps) -> None:
    flags = sweeps.flags("pbt", {"distil.learning_rate": {"loguniform": [1e-5, 1e-2]}}, distil=TRAINING | {"steps": 20})
    more = ["--scheduler", "pbt", "--pbt.population", "3", "--pbt.parts", "4", "--num-gpus", "2"]
    assert sweep.main([*flags, *more]) == EXIT_OK
    wait_for(nothing_is_reserved)
    rows = sweeps.rows("pbt")
    assert [row["status"] for row in rows.values()] == ["done"] * 3
    best = sweeps.folder / "pbt" / "best.yaml"
    assert len(yaml.safe_load(best.read_text())["distil"]["rates"]) == 4

    assert launch.main(["--config", str(best), "--num-gpus", "1"]) == EXIT_OK
    winner = max(rows, key=lambda name: float(rows[name]["psnr_y_db"]))
    found = read_state_dict(sweeps.folder / "pbt" / "trials" / winner / "student.safetensors")
    launched = read_state_dict(sweeps.folder / "pbt-best" / "student.safetensors")
    for name, tensor in found.items():
        assert torch.equal(launched[name], tensor), name


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_live_teachers_answer_all_trials_and_go_when_the_sweep_ends(sweeps: Sweeps) -> None:
    flags = sweeps.flags("live", teacher_outputs="live")
    more = ["--num-samples", "3", "--num-gpus", "3", "--teacher-gpus", "1", "--scheduler", "none"]
    assert sweep.main([*flags, *more]) == EXIT_OK
    wait_for(nothing_is_reserved)
    assert [row["status"] for row in sweeps.rows("live").values()] == ["done"] * 3


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_whose_state_is_torn_says_so_and_one_that_has_none_yet_begins_its_search(
    sweeps: Sweeps, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [*sweeps.flags("torn"), "--num-samples", "2", "--num-gpus", "1", "--scheduler", "none"]
    assert sweep.main(flags) == EXIT_OK
    (state,) = (sweeps.folder / "torn" / "ray-tune").glob("experiment_state-*.json")
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    assert sweep.main([*flags, "--resume"]) == EXIT_FAILED
    assert "the state of the search cannot be read" in " ".join(capfd.readouterr().err.split())
    for file in (sweeps.folder / "torn" / "ray-tune").glob("experiment_state-*.json"):
        file.unlink()
    assert sweep.main([*flags, "--resume"]) == EXIT_OK
    assert [row["status"] for row in sweeps.rows("torn").values()] == ["done"] * 2


def test_a_sweep_is_over_when_all_its_trials_have_ended() -> None:
    done, failed = TrialRow("trial-0001", "done", {}), TrialRow("trial-0002", "failed", {})
    assert not was_interrupted([done, failed], 2)
    assert was_interrupted([done], 2)
    assert was_interrupted([done, TrialRow("trial-0002", "running", {})], 2)
    assert was_interrupted([], 2)


def start(flags: list[str], log: Path) -> subprocess.Popen[bytes]:
    environ = os.environ | {"RAY_AUTH_MODE": "disabled"}
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", "mtkd_tune", *flags], stdout=file, stderr=file, env=environ)


def children(parent: int, title: str) -> list[int]:
    """Processes below `parent` whose title matches."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue

    def below(pid: int) -> bool:
        while pid in parents and pid != parent:
            pid = parents[pid]
        return pid == parent

    return [pid for pid, text in titles.items() if re.search(title, text) and below(pid)]


def starts(trial: Path) -> list[int]:
    """Steps that were done already at each start of a trial's student."""
    (checkpoints,) = trial.glob("distil/checkpoints-*")
    return [log.header.start for log in read_logs(checkpoints)]


LONG = TRAINING | {"steps": 300, "checkpoint_every": 20, "validate_every": 20}


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_was_ended_goes_on_with_what_it_had(sweeps: Sweeps, how: signal.Signals) -> None:
    name = how.name.lower()
    output, log = sweeps.folder / name, sweeps.folder / f"{name}.log"
    flags = [*sweeps.flags(name, distil=LONG), "--num-samples", "4", "--trial.concurrent", "1"]
    process = start(flags, log)
    done = output / "trials" / "trial-0001" / "distil" / "manifest.json"
    wait_for(lambda: done.exists() or process.poll() is not None, 180)
    wait_for(lambda: bool(list((output / "trials" / "trial-0002").glob("distil/checkpoints-*/step-*.pt"))), 180)
    os.kill(process.pid, how)
    status = process.wait(60)
    assert status == (-signal.SIGKILL if how == signal.SIGKILL else EXIT_INTERRUPTED), log.read_text()
    (checkpoints,) = (output / "trials" / "trial-0002").glob("distil/checkpoints-*")
    if how != signal.SIGKILL:
        assert sweeps.rows(name)["trial-0001"]["status"] == "done"
        # Where it was, and not at a multiple of checkpoint_every.
        last = max(line.step for line in read_logs(checkpoints)[-1].lines)
        assert max(Checkpoints(checkpoints).steps()) == last + 1
    assert start(flags, log).wait(60) == EXIT_USAGE  # not without --resume
    before = done.stat().st_mtime_ns
    assert start([*flags, "--resume"], log).wait(400) == EXIT_OK, log.read_text()
    rows = sweeps.rows(name)
    assert len(rows) == 4
    assert {row["status"] for row in rows.values()} <= {"done", "stopped"}
    assert done.stat().st_mtime_ns == before
    assert max(starts(output / "trials" / "trial-0002")) > 0
    verdict = audit(read_logs(checkpoints), None)
    assert (verdict.lost, verdict.repeated) == (0, 0)
    assert how == signal.SIGKILL or verdict.recomputed == 0


@pytest.mark.slow
def test_a_trial_whose_process_dies_is_started_again_and_goes_on(sweeps: Sweeps) -> None:
    flags = [*sweeps.flags("dies", distil=LONG), "--num-samples", "1", "--scheduler", "none"]
    process = start(flags, sweeps.folder / "dies.log")
    folder = sweeps.folder / "dies" / "trials" / "trial-0001"
    wait_for(lambda: bool(list(folder.glob("distil/checkpoints-*/step-*.pt"))), 180)
    (trial,) = children(process.pid, "^ray::ImplicitFunc")
    os.kill(trial, signal.SIGKILL)
    assert process.wait(300) == EXIT_OK, (sweeps.folder / "dies.log").read_text()
    (row,) = sweeps.rows("dies").values()
    assert (row["status"], row["starts"]) == ("done", "2")
    assert max(starts(folder)) > 0
