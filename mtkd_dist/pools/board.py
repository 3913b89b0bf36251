"""Where workers leave what the driver shows and tracks, and find the links. An actor, because the driver's `fit()`
blocks until the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorDiedError

from mtkd_dist.pools.errors import TrainingFailed, root_cause


class Board:
    def __init__(self) -> None:
        self._first = 0
        self._records: list[dict[str, Any]] = []
        self._links: list[Any] = []

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


BoardActor = ray.remote(num_cpus=0)(Board)


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
