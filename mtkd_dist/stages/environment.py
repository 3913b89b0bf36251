"""What a launch ran with and on: what a reader of its scores and times has to know of the machine."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from mtkd_dist.pools.placement import Resources
from mtkd_dist.stages.manifest import versions, write_json

FILE = "environment.json"
"""In the output folder, of the launch that was the last to work there."""


def write_environment(output: Path, resources: Resources) -> None:
    write_json(output / FILE, environment(resources))


def environment(resources: Resources) -> dict[str, Any]:
    """Group -> name -> text."""
    return {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions() | {"cuda": torch.version.cuda or "none"},
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "memory": f"{_memory_bytes() / 2**30:.0f} GiB",
        },
        "cluster": {
            "nodes": str(resources.nodes),
            "CPUs": str(resources.cpus),
            "GPUs": " ".join([str(resources.gpus), *resources.accelerators]),
        },
    }


def _processor() -> str:
    """Its name where the system tells it, and else its architecture."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
