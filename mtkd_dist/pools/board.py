"""Where workers leave what the driver shows and tracks. An actor, because the driver's `fit()` blocks until the end."""

from __future__ import annotations

from typing import Any

import ray


class Board:
    def __init__(self) -> None:
        self._first = 0
        self._records: list[dict[str, Any]] = []

    def post(self, records: list[dict[str, Any]]) -> None:
        self._records.extend(records)

    def read(self, first: int) -> list[dict[str, Any]]:
        """Records from number `first` on, in the order of posting; those before it are forgotten.

        A reader that did not get an answer in time asks with the same number again and misses nothing.
        """
        del self._records[: first - self._first]
        self._first = first
        return list(self._records)


BoardActor = ray.remote(num_cpus=0)(Board)
