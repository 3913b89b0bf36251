"""Photographs and weights that a configuration names by URL, fetched before anything looks at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mtkd_dist.config.load import ConfigError, flatten
from mtkd_dist.config.tree import Config
from mtkd_dist.data.remote import Tell, is_url, local_path


def fetched(config: Config, tell: Tell) -> Config:
    """The same configuration with paths of this machine where inputs are URLs; `output` stays as it is.

    Errors: ConfigError for a URL that cannot be read, or stands where only a folder of this machine can.
    """
    places: dict[str, Callable[[], object]] = {
        "data": lambda: [_local(entry, tell) for entry in config.data],
        "test": lambda: [fetched_set(entry, tell) for entry in config.test],
        "teachers": lambda: [fetched_weights(entry, tell) for entry in config.teachers],
        "aggregator": lambda: _local(config.aggregator, tell),
        "student_weights": lambda: config.student_weights and _local(config.student_weights, tell),
    }
    changes: dict[str, Any] = {}
    for key, place in places.items():
        try:
            changes[key] = place()
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
    local = dataclasses.replace(config, **changes)
    for key, value in flatten(dataclasses.asdict(local)).items():
        if key not in ("output", "cluster.address") and isinstance(value, str) and is_url(value):
            raise ConfigError(f"{key}: {value} is a URL; expected a path of this machine")
    return local


def fetched_set(entry: str, tell: Tell) -> str:
    """`DIR` or `NAME=DIR`, with the URL's copy in place of the URL. Errors: ValueError."""
    name, equals, place = entry.partition("=")
    if equals and not is_url(name):
        return f"{name}={_local(place, tell)}"
    return _local(entry, tell)


def fetched_weights(entry: str, tell: Tell) -> str:
    """`FILE` or `FILE:name=X,...`, with the URL's copy in place of the URL. Errors: ValueError."""
    head, colon, options = entry.rpartition(":")
    if colon and "=" in options and not options.startswith("//"):
        return f"{_local(head, tell)}:{options}"
    return _local(entry, tell)


def _local(place: str, tell: Tell) -> str:
    return str(local_path(place, tell)) if is_url(place) else place
