"""What a stage shows while it trains: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mtkd_dist.config.shares import PoolShares

PLAIN_LINE_SECONDS = 10.0


@dataclass(frozen=True)
class _State:
    step: int
    loss: float | None
    images_per_second: float
    pools: Mapping[str, PoolShares]
    link: str = ""


def remaining_seconds(first_step: int, step: int, total_steps: int, elapsed_seconds: float) -> float | None:
    """Time left at the mean speed since `first_step`; None before a step is done."""
    if step <= first_step:
        return None
    return (total_steps - step) * elapsed_seconds / (step - first_step)


def duration(seconds: float) -> str:
    """`12 s`, `3 min 05 s`, `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def shares_text(shares: PoolShares) -> str:
    return f"{shares.working:.0%} working, {shares.starved:.0%} starved, {shares.held_back:.0%} held back"


class Progress:
    """Context manager that shows the steps of one stage.

    On a terminal: one live line (bar, step, loss, images/s, time left) and below it one for each pool and the link.
    Elsewhere: one plain line at the first update, then at most one every 10 s, and the last update.

    Args:
        stage: name that is shown.
        total_steps: steps of the whole stage.
    """

    def __init__(self, console: Console, stage: str, total_steps: int):
        self._console = console
        self._stage = stage
        self._total_steps = total_steps
        self._state = _State(0, None, 0.0, {})
        # Step and time of the first update: starting workers and steps done before say nothing about the speed.
        self._reference: tuple[int, float] | None = None
        self._printed: _State | None = self._state
        self._next_line_at = 0.0
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            # Live would otherwise bring what others print back to the screen, above the line.
            self._live = Live(
                console=self._console, get_renderable=self._render, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._printed is not self._state:
            self._print_line()

    def update(
        self,
        step: int,
        loss: float | None,
        images_per_second: float,
        pools: Mapping[str, PoolShares],
        link: str = "",
    ) -> None:
        """Shows that `step` steps of the stage are done.

        Args:
            pools: name -> shares of the stage's time so far.
            link: what is on its way between them.
        """
        self._state = _State(step, loss, images_per_second, dict(pools), link)
        self._reference = self._reference or (step, time.monotonic())
        if self._live is None and time.monotonic() >= self._next_line_at:
            self._print_line()

    def _print_line(self) -> None:
        self._next_line_at = time.monotonic() + PLAIN_LINE_SECONDS
        self._printed = self._state
        pools = [f"{name}: {text}" for name, text in self._below()]
        line = "  ".join([f"{self._stage} {self._state.step}/{self._total_steps}", *self._numbers(), *pools])
        # A log is read by grep: one update is one line, whatever its length.
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)
        self._console.file.flush()

    def _below(self) -> list[tuple[str, str]]:
        """The lines below the bar: name and text."""
        pools = [(name, shares_text(shares)) for name, shares in self._state.pools.items()]
        return pools + ([("link", self._state.link)] if self._state.link else [])

    def _numbers(self) -> list[str]:
        state = self._state
        first_step, since = self._reference or (state.step, 0.0)
        left = remaining_seconds(first_step, state.step, self._total_steps, time.monotonic() - since)
        return [
            "loss -" if state.loss is None else f"loss {state.loss:.4g}",
            f"{state.images_per_second:.1f} img/s",
            "time left -" if left is None else f"{duration(left)} left",
        ]

    def _render(self) -> RenderableType:
        state = self._state
        line = Table.grid(padding=(0, 2), expand=True)
        for _ in range(2):
            line.add_column(no_wrap=True)
        line.columns[1].ratio = 1
        for _ in range(4):
            line.add_column(no_wrap=True, justify="right")
        bar = ProgressBar(total=self._total_steps, completed=state.step)
        line.add_row(Text(self._stage, style="bold"), bar, f"{state.step}/{self._total_steps}", *self._numbers())
        pools = Table.grid(padding=(0, 2))
        for name, text in self._below():
            pools.add_row(Text(f"  {name}", style="dim"), Text(text, style="dim"))
        return Group(line, pools)
