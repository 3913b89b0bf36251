"""How much of a known number is done: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINES = 10


class Advance(Protocol):
    def __call__(self, share: float = 1.0) -> None:
        """One more is done, or a share of one."""


@contextmanager
def counter(console: Console, what: str, total: int) -> Iterator[Advance]:
    """Shows how many of `total` are done, and `what` they are; elsewhere than on a terminal in at most ten lines."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda share=1.0: bar.advance(task, share)
        return
    done = 0.0

    def advance(share: float = 1.0) -> None:
        nonlocal done
        # Shares of one add up to a little more or less than it.
        before, done = done, round(done + share, 6)
        # Where the next line of the ten is due.
        if done * PLAIN_LINES // total > before * PLAIN_LINES // total:
            console.print(f"{what} {round(done, 1):g}/{total}", soft_wrap=True, markup=False, highlight=False)
            console.file.flush()

    yield advance
