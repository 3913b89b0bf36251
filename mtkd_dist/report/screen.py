"""The screen belongs to the report; everything else that is written goes to a log file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from rich.console import Console, ConsoleDimensions

# A file or a pipe has no width; rich's 80 would fold the score table.
WIDTH_OF_A_FILE = 120


class _Screen(Console):
    """A console that asks its own file for the width: rich asks the standard streams, which now are the log."""

    @property  # type: ignore[misc]
    def size(self) -> ConsoleDimensions:
        if "COLUMNS" in os.environ:
            return super().size
        try:
            columns, lines = os.get_terminal_size(self.file.fileno())
        except OSError:
            return ConsoleDimensions(WIDTH_OF_A_FILE, 25)
        # A pseudo-terminal without a size says 0.
        return ConsoleDimensions(columns or 80, lines or 25)


@contextmanager
def capture_output(log: Path) -> Iterator[Console]:
    """Sends all that this process and its children write to file descriptors 1 and 2 to the end of `log`.

    Yields a console that still writes to where descriptor 1 led before, be it a terminal or not. Afterwards, also after
    an exception, descriptors and `sys.stdout`/`sys.stderr` are as they were; the console is closed with it. Children
    that outlive the context go on writing to the log. For the main thread: descriptors belong to the whole process.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    saved_out, saved_err = os.dup(1), os.dup(2)
    try:
        with (
            # Python's streams are replaced as well: under pytest and in notebooks they do not lead to descriptor 1,
            # and a stdout that is a pipe would be buffered, so that lines would reach the log late and out of order.
            log.open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as stream,
            os.fdopen(os.dup(saved_out), "w", encoding=encoding, errors="replace") as terminal,
        ):
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            with redirect_stdout(stream), redirect_stderr(stream):
                yield _Screen(file=terminal)
    finally:
        # A logger that was set up earlier may still hold text in the old streams: it belongs to the log.
        _flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        os.close(saved_out)
        os.close(saved_err)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
