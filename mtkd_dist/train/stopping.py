"""A training that was asked to end: all its ranks stop after the same step, and what they have is saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mtkd_dist.train.checkpoints import Checkpoints

EXCHANGE_SECONDS = 0.5


class Saved(Exception):
    """A training ended before its last step, because it was asked to.

    Args:
        step: steps that its newest checkpoint has.
        steps: of the whole training.
    """

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(step, steps)
        self.step = step
        self.steps = steps

    def __str__(self) -> str:
        return f"saved after step {self.step} of {self.steps}"


def saved_in(folder: Path, steps: int, say: Callable[[str], None]) -> Saved:
    """What the checkpoints in `folder` hold of a training of `steps` steps. `say`: see `Checkpoints.newest`."""
    return Saved(Checkpoints(folder).newest(say) or 0, steps)


def nobody_asks() -> bool:
    return False


class Stopping:
    """When a training stops: after the same step on all ranks, whichever of them was asked, and when.

    Ranks agree in exchanges that all of them hold after the same steps: whether to stop there, and else after how many
    more steps to exchange again, so that an exchange comes about twice a second and most steps do without.

    Args:
        start: steps that are done already.
        asked: whether this rank was asked to stop.
        least: makes of this rank's numbers the least of each over all ranks; every rank calls it equally often.
        clock: seconds; replaced in tests.
    """

    def __init__(
        self,
        start: int,
        asked: Callable[[], bool],
        least: Callable[[Sequence[int]], Sequence[int]] = lambda numbers: numbers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked = asked
        self._least = least
        self._clock = clock
        self._done = start
        self._at = clock()
        self._next = start + 1

    def __call__(self, done: int) -> bool:
        """Whether to stop, now that `done` steps are; to be called after every step."""
        if done < self._next:
            return False
        now, steps = self._clock(), done - self._done
        # A first step that compiles says little: at most twice as many as the last time.
        wanted = int(steps * EXCHANGE_SECONDS / max(now - self._at, 1e-9))
        goes_on, steps = self._least([int(not self._asked()), max(1, min(wanted, 2 * steps))])
        self._done, self._at, self._next = done, now, done + steps
        return not goes_on
