"""`mtkd verify-run DIR`: was each sample of a run learned from exactly once? Read from what its students wrote down."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtkd_dist.config.load import ConfigError
from mtkd_dist.data import ImageStore, Plan
from mtkd_dist.data.store import crop
from mtkd_dist.habits import EXIT_FAILED, EXIT_OK, Habits, Parser, Result, command
from mtkd_dist.pools.wire import checks_of
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.stages import manifest
from mtkd_dist.train.audit import Checks, Verdict, audit
from mtkd_dist.train.consumption import FOLDER, Header, read_logs

EXAMPLE = """example:
  mtkd verify-run runs/x

Exit status: 0 when nothing is lost, repeated or wrong, 1 otherwise, 2 when
there is nothing to verify.
"""


@dataclass(frozen=True)
class Finding:
    """One training of a run."""

    stage: str
    verdict: Verdict | None
    """None where it left no log that can be read."""
    remark: str = ""

    def __str__(self) -> str:
        return f"{self.stage}: " + ". ".join(str(part) for part in (self.verdict, self.remark) if part)

    @property
    def fine(self) -> bool:
        return self.verdict is not None and self.verdict.fine

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        verdict = None if self.verdict is None else dataclasses.asdict(self.verdict)
        return {"stage": self.stage, "fine": self.fine, "verdict": verdict, "remark": self.remark}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 when nothing is lost, repeated or wrong, 1 otherwise, 2 when there is
    nothing to verify."""
    return command(argv, _main)


def parser() -> Parser:
    """What `--help` shows."""
    parser = Parser(
        "mtkd verify-run",
        "Was each sample of a run learned from exactly once? Read from what its students\nwrote down.",
        EXAMPLE,
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="output folder of a launch")
    parser.add_argument("--stage", action="append", help="only this training, such as distil or teachers/edsr")
    return parser


def _main(words: list[str], habits: Habits) -> Result:
    flags = parser().parse_args(words)
    findings = [finding for finding in verify(flags.run) if not flags.stage or finding.stage in flags.stage]
    if not findings:
        what = f"of {', '.join(flags.stage)} " if flags.stage else ""
        raise ConfigError(f"no training {what}has begun in {flags.run}; expected the output of a launch")
    console = habits.console()
    with even_if_quiet(console):
        console.print(*map(str, findings), sep="\n", markup=False, highlight=False, soft_wrap=True)
    fine = all(finding.fine for finding in findings)
    return Result(
        {"fine": fine, "trainings": [finding.plain() for finding in findings]}, EXIT_OK if fine else EXIT_FAILED
    )


def verify(run: Path) -> list[Finding]:
    """All trainings in a run's folder, by name; two of a stage that was begun anew and is not finished."""
    findings = []
    for consumed in sorted(run.glob(f"**/checkpoints-*/{FOLDER}")):
        checkpoints = consumed.parent
        findings.append(_verify(checkpoints.parent.relative_to(run).as_posix(), checkpoints, run))
    logged = {finding.stage for finding in findings}
    for file in sorted(run.glob(f"**/{manifest.FILE}")):
        stage = file.parent.relative_to(run).as_posix()
        found = manifest.read(file.parent)
        if stage not in logged and found is not None and "training" in found.inputs:
            findings.append(Finding(stage, None, "there is no consumption log"))
    return findings


def _verify(stage: str, checkpoints: Path, run: Path) -> Finding:
    try:
        logs = read_logs(checkpoints)
        if not logs:
            return Finding(stage, None, "the consumption log is empty")
        expected, remark = _expected(logs[-1].header, run)
        return Finding(stage, audit(logs, expected), remark)
    except ValueError as error:
        return Finding(stage, None, str(error))


def _expected(header: Header, run: Path) -> tuple[Callable[[int], Checks] | None, str]:
    """Step -> checks as the plan says, or None and the reason why they cannot be worked out."""
    reason = ""
    for folder in dict.fromkeys([Path(header.images), run / "images"]):
        try:
            store = ImageStore.open(folder)
        except (OSError, ValueError) as error:
            reason = reason or f"The photographs are not at hand: {error}"
            continue
        if store.digest != header.dataset:
            reason = f"{folder} holds other photographs by now"
            continue
        plan = Plan(header.seed, store.digest, tuple(store.lr_sizes), header.batch_size, header.patch)
        if plan.digest != header.plan:
            return None, "The plan is made in another way than when the run began"
        return functools.partial(_checks, store, plan), ""
    return None, reason


def _checks(store: ImageStore, plan: Plan, step: int) -> Checks:
    return checks_of(np.stack([crop(store.lr(s.image), s, plan.patch, 1) for s in plan.samples(step)]))
