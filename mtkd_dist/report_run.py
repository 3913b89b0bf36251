"""`mtkd report DIR`: one page about a run, finished or not, to look at and to send around."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtkd_dist.config.load import ConfigError
from mtkd_dist.habits import Habits, Parser, command
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.stages.run_report import FILE, write_report

EXAMPLE = """example:
  mtkd report runs/demo

A launch writes its report when it ends. This command writes it again, also of a
run that is half done: what is there is shown. The page is one file: it needs no
network, and can be sent by mail.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`mtkd_dist.habits`)."""
    return command(argv, _report)


def parser() -> Parser:
    """What `--help` shows."""
    parser = Parser("mtkd report", "Write one self-contained HTML page about a run.", EXAMPLE)
    parser.add_argument("run", type=Path, metavar="DIR", help="output folder of a launch, finished or not")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"where to write it; default: DIR/{FILE}")
    return parser


def _report(words: list[str], habits: Habits) -> dict[str, Any]:
    flags = parser().parse_args(words)
    file = flags.output or flags.run / FILE
    try:
        write_report(flags.run, file)
    except OSError as error:
        raise ValueError(f"{file} cannot be written: {error.strerror or error}") from error
    except ValueError as error:  # there is no run to show
        raise ConfigError(str(error)) from error
    console = habits.console()
    with even_if_quiet(console):
        console.print(f"report  {file}", markup=False, highlight=False, soft_wrap=True)
    return {"report": str(file)}


if __name__ == "__main__":
    sys.exit(main())
