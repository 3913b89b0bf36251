"""How a configuration that cannot work is refused: key, value, what was expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mtkd_dist.config.load import ConfigError

T = TypeVar("T")
R = TypeVar("R")


def require(fine: bool, key: str, value: object, expected: str) -> None:
    """Errors: ConfigError unless `fine`."""
    if not fine:
        raise ConfigError(f"{key}: {value} is not possible; expected {expected}.")


def parsed(key: str, value: T, parse: Callable[[T], R]) -> R:
    """What `parse` makes of the value. Errors: ConfigError with the words of its ValueError."""
    try:
        return parse(value)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
