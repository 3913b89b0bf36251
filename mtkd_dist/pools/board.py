"""Where workers leave what the driver shows and tracks. An actor, because the driver's `fit()` blocks until the end."""

from __future__ import annotations

from typing import Any

import ray


class Board:
    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    def post(self, records: list[dict[str, Any]]) -> None:
        self._records.extend(records)

    def drain(self) -> list[dict[str, Any]]:
        """Records since the last call, in the order of posting."""
        records, self._records = self._records, []
        return records


BoardActor = ray.remote(num_cpus=0)(Board)
