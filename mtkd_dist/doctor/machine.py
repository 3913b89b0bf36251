"""Versions, GPUs, memory and disk. Each check is a function of what was read, which is read at the end of this file."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.doctor.check import Check, Status
from mtkd_dist.stages.run import OBJECT_STORE_SHARE

PACKAGE = "mtkd-dist"
SHOWN = ("torch", "ray", "triton", "mlflow", "spandrel")
GB = 10**9
LITTLE_MEMORY, TOO_LITTLE_MEMORY = 4 * GB, GB
"""Bytes; the demo takes about 3 GB on two CPU cores."""
LITTLE_DISK, TOO_LITTLE_DISK = 10 * GB, GB
"""Bytes; decoded photographs alone are 3 bytes a pixel, twice that of one MLflow store and a few checkpoints."""
LITTLE_CARD = 2 * GB
OBJECT_STORE = int(LinkConfig().max_bytes / OBJECT_STORE_SHARE)
"""Bytes that a run's answers may take by default."""


def python(version: str, needed: str) -> Check:
    """`version` such as 3.11.7; `needed` such as >=3.11."""
    if SpecifierSet(needed).contains(version):
        return Check("python", "ok", version)
    return Check("python", "failed", f"{version}, needed is {needed}", f"make the environment with Python {needed}")


def packages(needed: Sequence[Requirement], version_of: Callable[[str], str | None]) -> Check:
    """`version_of`: of an installed package, or None."""
    versions = {requirement.name: version_of(requirement.name) for requirement in needed}
    wrong = [r for r in needed if not (v := versions[r.name]) or not r.specifier.contains(v, prereleases=True)]
    if wrong:
        found = ", ".join(f"{r.name} {versions[r.name] or 'is absent'} (needed: {r.specifier})" for r in wrong)
        remedy = "pip install " + " ".join(f"'{r.name}{r.specifier}'" for r in wrong)
        return Check("packages", "failed", found, remedy)
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    return Check("packages", "ok", f"{shown}; all {len(needed)} in their ranges")


def not_installed() -> Check:
    return Check(
        "packages", "warning", f"{PACKAGE} runs from a folder and is not installed", "pip install -e . in its folder"
    )


@dataclass(frozen=True)
class Card:
    name: str
    free_bytes: int
    total_bytes: int


def gpus(cards: Sequence[Card], torch_version: str, driver: bool) -> Check:
    """`driver`: whether the machine has an NVIDIA driver."""
    if not cards and driver:
        return Check(
            "gpu",
            "failed",
            f"an NVIDIA driver is here, and torch {torch_version} sees no GPU",
            "is it a CPU build (pip install torch with CUDA), or is CUDA_VISIBLE_DEVICES empty? nvidia-smi shows more",
        )
    if not cards:
        return Check("gpu", "ok", "none: both pools will be CPU workers")
    found = ", ".join(f"{c.name} ({_gb(c.free_bytes)} of {_gb(c.total_bytes)} free)" for c in cards)
    if any(card.free_bytes < LITTLE_CARD for card in cards):
        remedy = "something else fills a card: nvidia-smi names it; CUDA_VISIBLE_DEVICES leaves a card out"
        return Check("gpu", "warning", found, remedy)
    return Check("gpu", "ok", found)


def memory(available_bytes: int | None) -> Check:
    """None where the system does not tell."""
    if available_bytes is None:
        return Check("memory", "ok", "this system does not tell")
    remedy = "end what takes it, or take fewer workers (--cluster.teacher-workers, --cluster.student-workers)"
    return _amount("memory", available_bytes, LITTLE_MEMORY, TOO_LITTLE_MEMORY, "free", remedy)


def disk(folder: Path) -> Check:
    """`folder`: where a run would write; it need not be there yet."""
    place = existing(folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return Check("disk", "failed", f"{place} cannot be written: {error.strerror}", "give another --output")
    free = shutil.disk_usage(place).free
    return _amount(
        "disk", free, LITTLE_DISK, TOO_LITTLE_DISK, f"free at {place}", "make room, or give another --output"
    )


def existing(folder: Path) -> Path:
    """The folder itself, or the one in which it would be made."""
    return next(place for place in [folder.resolve(), *folder.resolve().parents] if place.is_dir())


def shared_memory(free_bytes: int | None) -> Check:
    """Of /dev/shm, where Ray puts its object store; None where there is none."""
    if free_bytes is None:
        return Check("object store", "ok", "no /dev/shm on this system: Ray finds another place")
    found = f"{_gb(free_bytes)} free in /dev/shm"
    if free_bytes >= OBJECT_STORE:
        return Check("object store", "ok", found)
    return Check(
        "object store",
        "warning",
        f"{found}, answers on their way may take {_gb(OBJECT_STORE)}: Ray would put them on disk",
        "give the container more (docker run --shm-size=4g; on Kubernetes an emptyDir of medium Memory at /dev/shm), "
        "or lower --link.max-bytes",
    )


def _amount(name: str, count: int, little: int, too_little: int, where: str, remedy: str) -> Check:
    status: Status = "failed" if count < too_little else "warning" if count < little else "ok"
    return Check(name, status, f"{_gb(count)} {where}", "" if status == "ok" else remedy)


def _gb(count: int) -> str:
    return f"{count / GB:.1f} GB"


# Reading


def needed_packages() -> list[Requirement] | None:
    """What the package says that it needs here, without extras; None where it is not installed."""
    try:
        texts = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]


def needed_python() -> str:
    try:
        return importlib.metadata.metadata(PACKAGE)["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cards() -> list[Card]:
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(Card(torch.cuda.get_device_name(index), free, total))
    return found


def has_driver() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a new process may take: of the machine, and of the container that this process is in."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        of_machine = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return None
    try:
        limit, used = ((cgroup / name).read_text() for name in ("memory.max", "memory.current"))
        return min(of_machine, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit
        return of_machine


def free_shared_memory() -> int | None:
    return shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None
