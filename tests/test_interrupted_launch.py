"""A launch that is ended from outside in the middle of a training, and the same command again."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray
import torch

from mtkd_dist import launch, verify_run
from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.habits import EXIT_INTERRUPTED
from mtkd_dist.models import read_metadata, read_state_dict
from mtkd_dist.pools.interrupts import FINISHING
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.train.checkpoints import Checkpoints
from mtkd_dist.train.consumption import read_logs
from mtkd_dist.train.news import Update
from mtkd_dist.train.stopping import Saved
from mtkd_dist.train.trainer import run_training
from mtkd_dist.train.validation import ValidationJob
from tests.nets import make_job, make_store, write_launch


def write_config(folder: Path) -> Path:
    return write_launch(folder, photos=4, steps=400, batch_size=4, checkpoint_every=20, ema=0.9)


def logged_steps(output: Path) -> int:
    folders = list((output / "distil").glob("checkpoints-*"))
    return max((step for f in folders for log in read_logs(f) for step, _, _ in log.lines), default=0)


def interrupt(command: list[str], output: Path, how: signal.Signals, times: int = 1) -> int:
    """Start the command and end it once it is past a checkpoint or two; returns its exit status."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    while logged_steps(output) < 50:
        assert process.poll() is None, "ended before it could be interrupted"
        time.sleep(0.02)
    for _ in range(times):
        process.send_signal(how)
        time.sleep(0.2)  # two that come at once are one
    status = process.wait(60)
    assert logged_steps(output) < 399, "was done before it could be interrupted"
    return status


def newest_checkpoint(output: Path) -> int:
    (folder,) = (output / "distil").glob("checkpoints-*")
    return max(Checkpoints(folder).steps())


def check_equal(output: Path, undisturbed: Path, recomputed: int | None = None) -> None:
    """`recomputed`: samples that were; None: however many."""
    # Not their files: safetensors writes metadata in any order.
    ours, theirs = (read_state_dict(folder / "student.safetensors") for folder in (output, undisturbed))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert (output / "scores.json").read_bytes() == (undisturbed / "scores.json").read_bytes()
    (verified,) = verify_run.verify(output)
    assert verified.verdict is not None
    assert verified.verdict.finished
    assert (verified.verdict.lost, verified.verdict.repeated, verified.verdict.wrong) == (0, 0, 0)
    assert verified.verdict.recomputed == recomputed or recomputed is None
    assert verified.verdict.compared
    assert verified.verdict.attempts == 2
    assert verify_run.main([str(output)]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("method", ["mtkd", "at", "fakd", "dukd"])
def test_the_same_command_after_kill_9_ends_bit_equal_on_a_cluster_that_lives_on(method: str, tmp_path: Path) -> None:
    """With methods that ask live teachers for more than images, too; DUKD asks questions of its own making."""
    argv = ["--config", str(write_config(tmp_path)), "--num-gpus", "2", "--method", method]
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, "-m", "mtkd_dist.launch", *argv, "--output", str(killed), "--cluster.address", address]
    interrupt(command, killed, signal.SIGKILL)
    for output in (killed, undisturbed):
        assert launch.main([*argv, "--output", str(output)]) == 0
    check_equal(killed, undisturbed)
    assert read_metadata(killed / "student.safetensors")["method"] == method
    pools = json.loads((killed / "distil" / "manifest.json").read_text())["summary"]["pools"]
    assert pools.keys() == {"students", "teachers"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "times"), [(signal.SIGKILL, 1), (signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGINT, 2)]
)
def test_the_same_command_ends_bit_equal_where_the_cluster_ends_with_the_launch(
    tmp_path: Path, how: signal.Signals, times: int
) -> None:
    """Asked once, the launch saves first; asked twice, it goes on from the last checkpoint like one that was killed."""
    argv = [sys.executable, "-m", "mtkd_dist.launch", "--config", str(write_config(tmp_path))]
    argv += ["--cluster.dashboard", "false"]
    ended, undisturbed = tmp_path / "ended", tmp_path / "undisturbed"
    status = interrupt([*argv, "--output", str(ended)], ended, how, times)
    assert status == (EXIT_INTERRUPTED if how != signal.SIGKILL else -signal.SIGKILL)
    asked = how != signal.SIGKILL and times == 1
    if asked:
        # No multiple of checkpoint_every, but where it was.
        assert newest_checkpoint(ended) == logged_steps(ended) + 1
    for output in (ended, undisturbed):
        subprocess.run([*argv, "--output", str(output)], check=True, timeout=300, stdout=subprocess.DEVNULL)
    check_equal(ended, undisturbed, 0 if asked else None)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_lets_all_ranks_save_after_the_same_step(tmp_path: Path) -> None:
    """And the validation that it comes in the way of is still scored."""
    job = dataclasses.replace(
        make_job(make_store(tmp_path), steps=2000, checkpoint_every=1000, validate_every=20),
        pool=PoolSize(workers=2, cpus=1, gpus=0),
    )
    held_out = make_store(tmp_path / "held-out", 1, side=40)
    validation = ValidationJob(job, held_out.folder, (), tmp_path / "best.safetensors", {})
    folder, updates, notes = tmp_path / "checkpoints", list[Update](), list[str]()

    def update(news: Update) -> None:
        updates.append(news)
        notes.extend(news.notes)
        if not notes and any(record["step"] >= 40 for record in news.records):
            signal.raise_signal(signal.SIGINT)

    folder.mkdir()
    with pytest.raises(Saved) as saved:
        run_training(job, None, Layout(job.pool, None), LinkConfig(slot_size=2), folder, update, validation)
    assert notes == [FINISHING]
    assert 40 < saved.value.step < 2000
    assert Checkpoints(folder).steps() == [saved.value.step]
    ends = [log.lines[-1].step + 1 for log in read_logs(folder)]
    assert ends == [saved.value.step] * 2
    scored = [record["step"] for news in updates for record in news.validations]
    assert scored == [*range(20, saved.value.step + 1, 20)]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_before_any_student_trains_ends_at_once(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path), steps=2000)
    (tmp_path / "checkpoints").mkdir()

    class Impatient(threading.Thread):
        def run(self) -> None:
            time.sleep(1)  # Ray Train takes longer to start a group
            os.kill(os.getpid(), signal.SIGINT)

    Impatient().start()
    with pytest.raises(KeyboardInterrupt):
        run_training(job, None, Layout(job.pool, None), LinkConfig(slot_size=2), tmp_path / "checkpoints", print)
    assert not list((tmp_path / "checkpoints").glob("step-*"))
