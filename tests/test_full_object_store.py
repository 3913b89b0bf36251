"""A run whose answers nearly fill Ray's object store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mtkd_dist.config.load import load_config
from mtkd_dist.models import read_state_dict
from mtkd_dist.pools.placement import LayoutError, Resources
from mtkd_dist.stages.run import check_layouts
from tests.nets import nearest_teacher, write_photos

STORE_BYTES = 80_000_000  # Ray takes no less than 75 MB
LINK_BYTES = 60_000_000

RUN = """
import json, re, sys, threading
import ray
from ray._private.internal_api import memory_summary
from mtkd_dist import launch

store_bytes, *flags = sys.argv[1:]
ray.init(address="local", num_cpus=3, include_dashboard=False, object_store_memory=int(store_bytes))
address = ray.get_runtime_context().gcs_address
used, ended = [], threading.Event()

def number(pattern):
    found = re.search(pattern, memory_summary(address, stats_only=True))
    return int(found[1]) if found else 0

def watch():
    while not ended.wait(0.3):
        used.append(number(r"Plasma memory usage (\\d+) MiB"))

watching = threading.Thread(target=watch)
watching.start()
status = launch.main(flags)
ended.set()
watching.join()
spilled = number(r"Spilled (\\d+)")
ray.shutdown()
print(json.dumps({"status": status, "used_mib": max(used), "spilled_mib": spilled}))
"""


def run(folder: Path, name: str, store_bytes: int, link_bytes: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A launch in a process and cluster of its own: what became of it, and the student's weights."""
    flags = ["--data", str(folder / "train"), "--test", f"held={folder / 'held'}", "--scale", "2"]
    flags += ["--teachers", str(folder / "given.safetensors"), "--method", "mean"]
    flags += ["--images.cache", str(folder / "images"), "--output", str(folder / name)]
    # Slower than its teacher, which no aggregator holds back. A sample is 1 MB and a step 16: the window is more than
    # the link may hold.
    flags += ["--student", "edsr-baseline:width=32,blocks=6", "--link.wire", "float32"]
    for key, value in {"steps": 6, "batch-size": 16, "patch": 128, "validate-every": 0}.items():
        flags += [f"--distil.{key}", str(value)]
    flags += ["--link.slot-size", "2", "--link.window-steps", "6", "--link.max-bytes", str(link_bytes)]
    command = [sys.executable, "-c", RUN, str(store_bytes), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["status"] == 0, done.stdout
    return result, read_state_dict(folder / name / "student.safetensors")


@pytest.mark.slow  # two launches with clusters of their own
def test_a_nearly_full_object_store_changes_nothing_and_spills_nothing(tmp_path: Path) -> None:
    write_photos(tmp_path / "train", 2, side=320)
    write_photos(tmp_path / "held", 1, side=48)
    nearest_teacher(tmp_path, "given")
    tight, weights = run(tmp_path, "tight", STORE_BYTES, LINK_BYTES)
    roomy, expected = run(tmp_path, "roomy", 1_000_000_000, 500_000_000)
    assert tight["used_mib"] * 2**20 > 0.8 * LINK_BYTES, "the object store was never nearly full"
    assert tight["used_mib"] * 2**20 < STORE_BYTES
    assert tight["spilled_mib"] == roomy["spilled_mib"] == 0
    assert weights.keys() == expected.keys()
    for name in expected:
        assert torch.equal(weights[name], expected[name]), name


def test_a_link_that_could_overfill_the_object_store_is_refused_with_how_much_it_may_hold() -> None:
    config = load_config(["--link.max-bytes", str(STORE_BYTES)])
    resources = Resources(cpus=4, gpus=0, nodes=1, object_store_bytes=STORE_BYTES)
    with pytest.raises(LayoutError, match=r"link\.max_bytes: 80000000 is more than 64000000, 80% of the cluster's"):
        check_layouts(config, resources)
    check_layouts(load_config(["--link.max-bytes", "64000000"]), resources)
