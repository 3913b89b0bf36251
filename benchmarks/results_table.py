"""One Markdown table of measured figures, with all that is needed to repeat them: command, hardware, versions, date."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import ClassVar

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "ray", "triton", "numpy", "ptwt", "pytorch_wavelets")


def hardware() -> str:
    """`2 cores of AMD EPYC ..., 23 GiB` or the GPU's name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{os.cpu_count()} cores of {model}"


def versions() -> dict[str, str]:
    """Of those packages that are installed: a benchmark of the kernels needs no Ray."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class Table:
    """Rows are added by the tests of one benchmark file; `markdown` shows them, `write` puts them into `results/`."""

    tables: ClassVar[list[Table]] = []

    def __init__(self, name: str, header: list[str]) -> None:
        self.name = name
        self.header = header
        self.rows: list[list[str]] = []
        self.notes: list[str] = []
        # What was not measured, and why.
        self.left_out: dict[str, str] = {}
        Table.tables.append(self)

    def add(self, *cells: str) -> None:
        if len(cells) != len(self.header):
            raise ValueError(f"{self.name}: {len(cells)} cells for the columns {self.header}")
        self.rows.append(list(cells))

    def markdown(self) -> str:
        installed = ", ".join(f"{name} {version}" for name, version in versions().items())
        what = " ".join(word for word in sys.argv[1:] if word not in ("--write", "-q", "-s")) or "benchmarks"
        lines = [
            f"# {self.name}",
            "",
            f"`pytest {what}`, {hardware()}, "
            f"Python {platform.python_version()}, {installed}, {datetime.date.today().isoformat()}.",
            "",
        ]
        table = [self.header, ["---"] * len(self.header), *self.rows]
        body = "\n".join(lines + ["| " + " | ".join(row) + " |" for row in table]) + "\n"
        body += "".join(f"\n{note}\n" for note in self.notes)
        return body + "".join(f"\nLeft out: {what} ({why}).\n" for what, why in self.left_out.items())

    def write(self) -> Path:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.md"
        path.write_text(self.markdown())
        return path
