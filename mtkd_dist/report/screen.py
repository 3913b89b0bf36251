"""The screen belongs to the report; everything else that is written goes to a log file."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO

from rich.console import Console, ConsoleDimensions

# A file or a pipe has no width; rich's 80 would fold the score table.
WIDTH_OF_A_FILE = 120
FOLLOW_SECONDS = 0.2
"""So often a log that is followed is looked at."""
_SAID = re.compile(r" mtkd_dist (INFO|WARNING|ERROR) ")
"""What a command itself says, in its log: it is on the screen already."""


class Teller(Console):
    """A console that goes on in silence once nobody reads it any more, as after `| head -1`: the work is worth it."""

    def on_broken_pipe(self) -> None:
        _forget_reader(self.file)


def print_line(text: str, stream: IO[str] | None = None) -> None:
    """A line for a stream (None: stdout); nothing where its reader has gone."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        _forget_reader(stream)


def _forget_reader(stream: IO[str]) -> None:
    """What the stream still holds and will be given goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class _Screen(Teller):
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
def even_if_quiet(console: Console) -> Iterator[None]:
    """For what a console says although it was told to be quiet: the result."""
    before, console.quiet = console.quiet, False
    try:
        yield
    finally:
        console.quiet = before


@contextmanager
def capture_output(log: Path, stderr: bool = False, quiet: bool = False, verbose: bool = False) -> Iterator[Console]:
    """Sends all that this process and its children write to file descriptors 1 and 2 to the end of `log`.

    Yields a console that still writes to where descriptor 1 led before, be it a terminal or not. Afterwards, also after
    an exception, descriptors and `sys.stdout`/`sys.stderr` are as they were; the console is closed with it. Children
    that outlive the context go on writing to the log. For the main thread: descriptors belong to the whole process.

    Args:
        stderr: the console writes to where descriptor 2 led before.
        quiet: it shows only what is said under `even_if_quiet`.
        verbose: it shows the new lines of the log as well.
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
            os.fdopen(os.dup(saved_err if stderr else saved_out), "w", encoding=encoding, errors="replace") as terminal,
        ):
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            console = _Screen(file=terminal, quiet=quiet, emoji=False)
            follow = _followed(log, console) if verbose else nullcontext()
            with redirect_stdout(stream), redirect_stderr(stream), follow:
                yield console
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


@contextmanager
def _followed(log: Path, console: Console) -> Iterator[None]:
    """Shows what is added to the log while the block lasts, also by other processes."""
    ended = threading.Event()
    with log.open(encoding="utf-8", errors="replace") as lines:
        lines.seek(0, os.SEEK_END)

        def show() -> None:
            last, rest = False, ""
            while not last:
                # Asked first: what was written before the end is still shown.
                last = ended.wait(FOLLOW_SECONDS)
                *whole, rest = (rest + lines.read()).split("\n")
                new = [line for line in [*whole, *([rest] if last else [])] if line and not _SAID.search(line)]
                if new:
                    console.print(*new, sep="\n", style="dim", markup=False, highlight=False, soft_wrap=True)

        follower = threading.Thread(target=show, name="follow the log", daemon=True)
        follower.start()
        try:
            yield
        finally:
            _flush()
            ended.set()
            follower.join()
