"""A launch that is ended from outside in the middle of a training, and the same command again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from mtkd_dist import launch, verify_run
from mtkd_dist.models import read_metadata, read_state_dict
from mtkd_dist.train.consumption import read_logs
from tests.nets import write_launch


def write_config(folder: Path) -> Path:
    return write_launch(folder, photos=4, steps=400, batch_size=4, checkpoint_every=20, ema=0.9)


def logged_steps(output: Path) -> int:
    folders = list((output / "distil").glob("checkpoints-*"))
    return max((step for f in folders for log in read_logs(f) for step, _, _ in log.lines), default=0)


def interrupt(command: list[str], output: Path, how: signal.Signals) -> None:
    """Start the command and end it once it is past a checkpoint or two."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    while logged_steps(output) < 50:
        assert process.poll() is None, "ended before it could be interrupted"
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(60)
    assert logged_steps(output) < 399, "was done before it could be interrupted"


def check_equal(output: Path, undisturbed: Path) -> None:
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
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_same_command_ends_bit_equal_where_the_cluster_ends_with_the_launch(
    tmp_path: Path, how: signal.Signals
) -> None:
    argv = [sys.executable, "-m", "mtkd_dist.launch", "--config", str(write_config(tmp_path))]
    argv += ["--cluster.dashboard", "false"]
    ended, undisturbed = tmp_path / "ended", tmp_path / "undisturbed"
    interrupt([*argv, "--output", str(ended)], ended, how)
    for output in (ended, undisturbed):
        subprocess.run([*argv, "--output", str(output)], check=True, timeout=300, stdout=subprocess.DEVNULL)
    check_equal(ended, undisturbed)
