"""Which known architecture a file resembles most: what the error about an unknown one says."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from mtkd_dist.models.basicsr_names import BASICSR_KEYS
from mtkd_dist.models.edsr import EDSR_KEYS
from mtkd_dist.models.rlfn import RLFN_KEYS

KeySets = list[frozenset[str]]
"""Sets of keys of which one at least must be in a file, whole."""

_OWN: dict[str, KeySets] = {
    "EDSR": [EDSR_KEYS],
    "RLFN": [RLFN_KEYS],
    **{f"BasicSR's {name}": [keys] for name, keys in BASICSR_KEYS.items()},
}
_LISTED = 5


def describe_closest(keys: Collection[str], registry: Iterable[Any]) -> str:
    """A sentence on the architecture of ours or of spandrel's `registry` that most of `keys` speak for."""
    found = closest(keys, _OWN | {str(entry.architecture.id): key_sets(entry.architecture) for entry in registry})
    if found is None:
        return "No known architecture has any of these keys."
    name, missing = found
    rest = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
    return f"Closest is {name}, of which are missing: {', '.join(missing[:_LISTED])}{rest}."


def closest(keys: Collection[str], known: Mapping[str, KeySets]) -> tuple[str, list[str]] | None:
    """(name, missing keys) of the `known` with the largest share of its keys found, of equals the one with most keys.

    None where not one key of any is found.
    """
    here = set(keys)
    rated = [(len(wanted & here) / len(wanted), len(wanted), name, wanted) for name, s in known.items() for wanted in s]
    share, _, name, wanted = max(rated, key=lambda rating: rating[:2], default=(0, 0, "", frozenset()))
    return (name, sorted(wanted - here)) if share else None


def key_sets(architecture: Any) -> KeySets:
    """What a spandrel architecture is detected by. Empty where it is not by keys (spandrel 0.4.2 has none such)."""
    condition = getattr(architecture, "_detect", None)
    return _expand(condition) if hasattr(condition, "_keys") else []


def _expand(condition: Any) -> KeySets:
    parts = [[frozenset({key})] if isinstance(key, str) else _expand(key) for key in condition._keys]
    if condition._kind == "any":
        return list(itertools.chain.from_iterable(parts))
    return [frozenset().union(*choice) for choice in itertools.product(*parts)]
