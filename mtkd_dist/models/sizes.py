"""The syntax `NAME[:key=value,key=value]` by which networks are named, and its canonical form.

The sizes of an architecture are a frozen dataclass: its fields are the allowed keys, its `__post_init__` refuses
impossible combinations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mtkd_dist.config.load import nearest

Size = int | float | bool | str


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """A network by name and sizes, checked; build it with `build_network` or `build_aggregator`."""

    architecture: str
    """Name without sizes, such as `edsr-baseline`."""
    sizes: Mapping[str, Size] = dataclasses.field(hash=False)
    """Every size of the architecture, the defaults included."""
    text: str
    """Canonical form: the name and the sizes that differ from its defaults, in the order of the architecture."""
    kinds: Mapping[str, Any] = dataclasses.field(hash=False)
    """Type of each size: int, float, bool, or a Literal of its choices."""
    usual: Mapping[str, Size] = dataclasses.field(hash=False)
    """The sizes that the bare name stands for."""

    def resized(self, sizes: Mapping[str, Size]) -> str:
        """Its text with some other sizes, unchecked: whether they go together is known when it is parsed."""
        return _text(self.architecture, {**self.sizes, **sizes}, self.usual)


def parse_spec(text: str, kind: str, defaults: Mapping[str, Any]) -> NetworkSpec:
    """Read `text` against `defaults`, name -> dataclass instance of the sizes that the bare name stands for.

    Raises ValueError naming the part of `text` that is wrong, what is allowed, and the nearest match.
    """
    name, colon, assignments = text.partition(":")
    if name not in defaults:
        raise ValueError(f"{text!r}: unknown {kind} {name!r}; known: {', '.join(defaults)}.{nearest(name, defaults)}")
    types = get_type_hints(type(defaults[name]))
    given: dict[str, Size] = {}
    for assignment in assignments.split(",") if colon else ():
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(
                f"{text!r}: expected key=value after {name!r}, got {assignment!r}; keys: {', '.join(types)}"
            )
        if key not in types:
            raise ValueError(f"{text!r}: unknown size {key!r}; {name} has: {', '.join(types)}.{nearest(key, types)}")
        if key in given:
            raise ValueError(f"{text!r}: size {key!r} is given twice; keep one of them")
        given[key] = _convert(text, key, value, types[key])
    try:
        sizes = dataclasses.replace(defaults[name], **given)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    values = dataclasses.asdict(sizes)
    usual = dataclasses.asdict(defaults[name])
    return NetworkSpec(name, values, _text(name, values, usual), types, usual)


def require_positive(sizes: Any, *keys: str) -> None:
    """Raise ValueError for the first of the fields `keys` of `sizes` that is not a finite number above zero."""
    for key in keys:
        if not 0 < getattr(sizes, key) < float("inf"):
            raise ValueError(f"{key}={getattr(sizes, key)} must be a number above 0")


def require_divisible(width: int, heads: int) -> None:
    """Raise ValueError unless every attention head gets the same number of channels."""
    if width % heads:
        raise ValueError(f"width={width} must be a multiple of heads={heads}")


def check_scale(scale: int) -> None:
    """Raise ValueError for an enlargement that no architecture of this package is built for."""
    if scale not in (2, 3, 4):
        raise ValueError(f"scale {scale!r} is not supported; expected 2, 3 or 4")


def _convert(text: str, key: str, value: str, kind: Any) -> Size:
    if get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}
        expected = " or ".join(choices)
    elif kind is bool:
        choices = {"true": True, "false": False}
        expected = "true or false"
    else:
        choices = {}
        expected = {int: "a whole number", float: "a number"}[kind]
    try:
        return choices[value] if choices else kind(value)
    except (KeyError, ValueError):
        raise ValueError(f"{text!r}: {key}={value} must be {expected}") from None


def _text(name: str, sizes: Mapping[str, Size], usual: Mapping[str, Size]) -> str:
    unusual = ",".join(f"{key}={_write(value)}" for key, value in sizes.items() if value != usual[key])
    return f"{name}:{unusual}" if unusual else name


def _write(value: Size) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
