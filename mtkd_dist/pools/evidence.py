"""Which keys harm the teachers that work at them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set

from mtkd_dist.pools.lease import Key

MAX_LOSSES = 3
"""Workers that may die over one key before it is taken for the cause."""
MAX_FAILURES = 3
"""Failures at one key before they are its fault."""


class Evidence:
    """What has been seen of keys without an answer."""

    def __init__(self) -> None:
        self._losses: Counter[Key] = Counter()
        self._failures: Counter[Key] = Counter()
        self._failed_at: dict[Key, set[str]] = {}
        self.suspects: set[Key] = set()
        """Keys at which a worker was, perhaps among others, when it died."""

    def died(self, keys: Sequence[Key], alone: bool = True) -> None:
        """A worker died while it was at `keys`, and at no others where it was `alone` with them.

        Of several nobody knows which it was: none is blamed yet.
        """
        self.suspects.update(keys)
        if len(keys) == 1 and alone:
            self._losses[keys[0]] += 1

    def failed(self, key: Key, worker: str) -> None:
        """`worker` raised an error at `key` and lives."""
        self._failures[key] += 1
        self._failed_at.setdefault(key, set()).add(worker)

    def acquit(self, key: Key) -> None:
        """It has been answered, or nobody will be asked again."""
        for seen in (self._losses, self._failures, self._failed_at):
            seen.pop(key, None)  # type: ignore[attr-defined]
        self.suspects.discard(key)

    def failed_at(self, key: Key) -> Set[str]:
        """Workers that have."""
        return self._failed_at.get(key, frozenset())

    @property
    def deadly_key(self) -> Key | None:
        """One that must not be leased again."""
        for seen, most in ((self._losses, MAX_LOSSES), (self._failures, MAX_FAILURES)):
            for key, count in seen.items():
                if count >= most:
                    return key
        return None

    def is_fatal(self, key: Key) -> bool:
        """Whether workers died of it too often."""
        return self._losses[key] >= MAX_LOSSES
