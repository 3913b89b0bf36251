"""`mtkd report DIR`: one page about a run, finished or not, to look at and to send around."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mtkd_dist.command import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from mtkd_dist.stages.run_report import FILE, write_report

EXAMPLE = """example:
  mtkd report runs/demo

A launch writes its report when it ends. This command writes it again, also of a run that is half done: what is there
is shown. The page is one file: it needs no network, and can be sent by mail.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 1 the page cannot be written, 2 there is no run to show."""
    parser = argparse.ArgumentParser(
        prog="mtkd report",
        description="Write one self-contained HTML page about a run.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="output folder of a launch, finished or not")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"where to write it; default: DIR/{FILE}")
    words = parser.parse_args(argv)
    file = words.output or words.run / FILE
    try:
        write_report(words.run, file)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        print(f"error: {file} cannot be written: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    print(f"report  {file}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
