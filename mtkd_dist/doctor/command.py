"""`mtkd doctor`: is this machine ready for a run, and if not, what mends it?"""

from __future__ import annotations

import dataclasses
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.text import Text

from mtkd_dist.doctor import machine, selftest, services
from mtkd_dist.doctor.check import Check, Status, worst
from mtkd_dist.habits import EXIT_FAILED, EXIT_OK, Habits, Parser, Result, command, in_words
from mtkd_dist.pools.cluster import reach
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.tracking.store import problem_at

EXAMPLE = """example:
  mtkd doctor --output runs

The last check trains for a few steps on Ray, which takes ten seconds, or
minutes on a busy machine; --quick leaves it out. Exit status: 0, or 1 where a
check failed.
"""
STYLES: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, or 1 where a check failed."""
    return command(argv, _main)


def parser() -> Parser:
    """What `--help` shows."""
    parser = Parser("mtkd doctor", "Look at this machine before a run, and say what mends what is not right.", EXAMPLE)
    add = parser.add_argument
    add("--output", type=Path, default=Path("runs"), metavar="DIR", help="where runs are to write; default: runs")
    add("--address", metavar="HOST:PORT", help="Ray cluster that a run would join; default: RAY_ADDRESS")
    add("--quick", action="store_true", help="without the training on Ray")
    return parser


def _main(words: list[str], habits: Habits) -> Result:
    flags = parser().parse_args(words)
    checks: list[Check] = []
    with habits.scratch_log("doctor") as console:
        for check in look(flags.output, flags.address, flags.quick, lambda what: _begin(console, what)):
            checks.append(check)
            with even_if_quiet(console):
                _show(console, check)
    found = worst(checks)
    document = {"status": found, "checks": [dataclasses.asdict(check) for check in checks]}
    return Result(document, EXIT_FAILED if found == "failed" else EXIT_OK)


def look(output: Path, address: str | None, quick: bool, begin: Callable[[str], None]) -> Iterator[Check]:
    """All checks, each as it is done. `begin` hears of what takes long."""
    if needed := machine.needed_python():
        yield machine.python(platform.python_version(), needed)
    requirements = machine.needed_packages()
    yield machine.packages(requirements, machine.version_of) if requirements is not None else machine.not_installed()
    yield _caught("gpu", lambda: machine.gpus(machine.cards(), torch.__version__, machine.has_driver()))
    yield machine.memory(machine.available_memory())
    yield machine.disk(output)
    yield machine.shared_memory(machine.free_shared_memory())
    reached = services.ray_address(address, os.environ, reach)
    yield reached
    yield services.ray_token(address, os.environ, Path.home())
    yield services.mlflow(os.environ.get(services.ENVIRONMENT), problem_at)
    begin("the wavelet loss against its reference ...")
    yield selftest.kernel(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if quick or reached.status == "failed":
        return
    begin("a training of a few steps; Ray starts first, which may take a while ...")
    yield _caught("training", lambda: _training(output, address))


def _training(output: Path, address: str | None) -> Check:
    # Where a run would write, so that all nodes see it.
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=machine.existing(output)) as folder:
        return selftest.training(Path(folder), address)


def _caught(name: str, look: Callable[[], Check]) -> Check:
    """What goes wrong is what was to be found out."""
    try:
        return look()
    except Exception as error:
        return Check(name, "failed", in_words(error, debug=True), "--verbose shows what Ray and torch have to say")


def _begin(console: Console, what: str) -> None:
    console.print(Text(f"{'':8} {what}", style="dim"))


def _show(console: Console, check: Check) -> None:
    console.print(
        Text.assemble((f"{check.status:8} ", STYLES[check.status]), f"{check.name:13} {check.found}"), soft_wrap=True
    )
    if check.remedy:
        console.print(Text(f"{'':22} {check.remedy}"), soft_wrap=True)
