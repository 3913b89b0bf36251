"""The validation as a Ray actor beside the training: it takes weights at once, and scores them when it gets to it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from torch import Tensor

from mtkd_dist.pools.device import use_threads
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.train.validation import Validation, ValidationJob, Weights

ASK_SECONDS = 60.0
"""So long rank 0 tries to hand over weights, before it goes on without this validation."""
MAX_WAITING = 4
"""Weights that wait to be scored; more of them would only fill the memory, and keep the end of a stage waiting."""
RESTARTS = 3
"""Of a validator that dies."""
REMIND_SECONDS = 30.0
"""So often the end of a stage says that it still waits for validations."""

logger = logging.getLogger(__name__)


class Validator:
    """Scores in the order of asking, on a thread of its own; each result is a record on the board.

    What is asked for waits here, and not with the student, whose death would take it along. Where scoring is slower
    than training, the oldest of too many is left out, with a note.
    """

    def __init__(self, job: ValidationJob, board: ActorHandle) -> None:
        self._job = job
        self._board = board
        self._waiting: deque[tuple[int, Weights]] = deque()
        self._unfinished = 0
        self._changed = threading.Condition()
        # Training goes first on a machine that both share.
        os.nice(10)
        threading.Thread(target=self._work, name="validation", daemon=True).start()

    def ask(self, step: int, weights: Weights) -> None:
        """`weights`: state dict after `step` steps; copied, because Ray's arrays belong to the student."""
        copied = {name: np.array(array) for name, array in weights.items()}
        with self._changed:
            self._waiting.append((step, copied))
            self._unfinished += 1
            dropped = self._waiting.popleft()[0] if len(self._waiting) > MAX_WAITING else None
            self._unfinished -= dropped is not None
            self._changed.notify()
        if dropped is not None:
            note = (
                f"the validation after step {dropped} is left out: {MAX_WAITING} newer ones wait; raise validate_every"
            )
            self._board.post.remote([{"note": note, "answered": dropped}])

    def unfinished(self) -> int:
        """How many validations are still to be posted."""
        return self._unfinished

    def _work(self) -> None:
        use_threads(1)
        validation: Validation | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                step, weights = self._waiting.popleft()
            try:
                validation = validation or Validation(self._job)
                record: dict[str, Any] = {"validation": validation.run(step, weights)}
            except Exception as error:  # the training is worth more than one score of it
                logger.exception("a validation failed")
                record = {"note": f"the validation after step {step} failed: {root_cause(error)}"}
            try:
                ray.get(self._board.post.remote([record | {"answered": step}]))
            except ray.exceptions.RayError:  # the driver goes on without it, and must not wait for it
                logger.exception("the result of a validation could not be posted")
            finally:
                with self._changed:
                    self._unfinished -= 1


@contextlib.contextmanager
def validator(job: ValidationJob | None, board: ActorHandle) -> Iterator[ActorHandle | None]:
    """A validator for as long as the block lasts; None without a job."""
    if job is None:
        yield None
        return
    # A call that its death interrupts is made again: what it had taken is lost with it.
    actor = ray.remote(Validator).options(num_cpus=0, max_restarts=RESTARTS, max_task_retries=RESTARTS)
    handle = actor.remote(job, board)
    try:
        yield handle
    finally:
        ray.kill(handle)


def ask(handle: ActorHandle, board: ActorHandle, step: int, weights: dict[str, Tensor]) -> None:
    """Rank 0 hands over its averaged weights. A validator that does not take them is a note, never an error."""
    arrays = {name: tensor.cpu().numpy() for name, tensor in weights.items()}
    board.post.remote([{"asked": step}])
    try:
        ray.get(handle.ask.remote(step, arrays), timeout=ASK_SECONDS)
    except (ray.exceptions.RayError, TimeoutError) as error:
        board.post.remote([{"note": f"the validator does not take the weights of step {step}: {root_cause(error)}"}])


def wait_until_idle(handle: ActorHandle, poll: Callable[[], None], say: Callable[[str], None]) -> None:
    """Until nothing that was asked is unfinished, or the validator is no more. `poll` is called about twice a second.

    All results are on the board then.
    """
    remind_at = time.monotonic() + REMIND_SECONDS
    while True:
        try:
            unfinished = ray.get(handle.unfinished.remote(), timeout=ASK_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            say(f"the validator does not answer: {root_cause(error)}")
            return
        poll()
        if not unfinished:
            return
        if time.monotonic() > remind_at:
            say(f"the training is done; {unfinished} validation(s) are still being scored")
            remind_at = time.monotonic() + REMIND_SECONDS
        time.sleep(0.5)
