"""Where workers leave what the driver shows and tracks, and find the links. An actor, because the driver's `fit()`
blocks until the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError

from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.nodes import on_this_node

FIRST_SECONDS = 10.0
"""So long whoever is about to begin waits for the board to say whether to stop."""


class Board:
    def __init__(self) -> None:
        self._first = 0
        self._records: list[dict[str, Any]] = []
        self._links: list[Any] = []
        self._stops = False

    def post(self, records: list[dict[str, Any]]) -> None:
        self._records.extend(records)

    def read(self, first: int) -> list[dict[str, Any]]:
        """Records from number `first` on, in the order of posting; those before it are forgotten.

        A reader that did not get an answer in time asks with the same number again and misses nothing.
        """
        del self._records[: first - self._first]
        self._first = first
        return list(self._records)

    def announce(self, links: Sequence[Any]) -> None:
        """The handles of the links, in the order of their slots, from now on."""
        self._links = list(links)

    def links(self) -> list[Any]:
        """As announced last; empty before that."""
        return self._links

    def stop(self) -> None:
        """Whoever trains is to save and end."""
        self._stops = True

    def stops(self) -> bool:
        return self._stops


BoardActor = ray.remote(num_cpus=0)(Board)


def start_board() -> ActorHandle:
    """One on this node; it ends when the driver lets go of it."""
    return BoardActor.options(scheduling_strategy=on_this_node()).remote()


class AskedToStop:
    """Whether the driver wants whoever trains to save and end. Travels to them.

    Only the first call waits for the board; each later one has the answer to what the one before it asked.
    """

    def __init__(self, board: ActorHandle) -> None:
        self._board = board
        self._answer: ray.ObjectRef[bool] | None = None

    def __call__(self) -> bool:
        seconds = FIRST_SECONDS if self._answer is None else 0
        self._answer = self._answer or self._board.stops.remote()
        if not ray.wait([self._answer], timeout=seconds)[0]:
            return False
        answer, self._answer = self._answer, self._board.stops.remote()
        try:
            return bool(ray.get(answer))
        except ray.exceptions.RayError:  # the board is dead, which its driver notices
            return False


def answer_of_board(call: ray.ObjectRef[Any], timeout: float | None = None) -> Any:
    """For the driver. Errors: TrainingFailed when the board is dead, as then nobody learns of anything any more; those
    of `ray.get`.
    """
    try:
        return ray.get(call, timeout=timeout)
    except ActorDiedError as error:
        raise TrainingFailed(
            "the process where workers leave their news for this one died; the same command goes on from the newest "
            f"checkpoint. {root_cause(error)}"
        ) from error
