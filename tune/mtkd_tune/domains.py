"""Where the values of one searched name come from, as a sweep's YAML says it and as Optuna draws them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mtkd_dist.config.load import ConfigError, nearest

FORMS = {
    "choice": "choice: [...]",
    "uniform": "uniform: [low, high]",
    "loguniform": "loguniform: [low, high]",
    "int": "int: [low, high] or int: [low, high, step]",
}


@dataclass(frozen=True)
class Domain:
    """The values of one name."""

    name: str
    distribution: BaseDistribution
    tested: tuple[Any, ...]
    """Values that must work: all of a choice, both ends of a range."""
    lists: Mapping[str, list[float]]
    """Optuna chooses among scalars: text that stands for a list -> the list."""

    def value(self, drawn: Any) -> Any:
        """What Optuna drew, as a value of the configuration."""
        return list(self.lists[drawn]) if self.lists else drawn

    @property
    def limits(self) -> tuple[float, float] | None:
        """Ends of a range; None for a choice."""
        if isinstance(self.distribution, CategoricalDistribution):
            return None
        return self.distribution.low, self.distribution.high


def parse_domain(name: str, said: Any, kind: Any) -> Domain:
    """`said`: one of `FORMS`, for a name whose values are of the type `kind`. Errors: ConfigError."""
    if not isinstance(said, Mapping) or len(said) != 1 or not {*said} <= {*FORMS}:
        word = next(iter(said), "") if isinstance(said, Mapping) else ""
        raise ConfigError(
            f"search: {name}: {said!r} does not say where values come from; expected one of "
            f"{'; '.join(FORMS.values())}.{nearest(word, FORMS)}"
        )
    ((form, values),) = said.items()
    if not isinstance(values, list) or not values:
        raise ConfigError(f"search: {name}: {form}: {values!r} is not possible; expected {FORMS[form]}.")
    typed = [_typed(name, form, value, kind) for value in values]
    if form == "choice":
        return _choice(name, typed)
    if kind is not (int if form == "int" else float):
        raise ConfigError(f"search: {name}: {form} draws {_WORDS[form]}, and it is {told(kind)}; use {_fitting(kind)}.")
    return _range(name, form, typed)


def told(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return words.get(kind, "a list of numbers")


_WORDS = {"int": "whole numbers", "uniform": "fractions", "loguniform": "fractions"}


def _fitting(kind: Any) -> str:
    return {int: "int or choice", float: "uniform, loguniform or choice"}.get(kind, "choice")


def _choice(name: str, values: list[Any]) -> Domain:
    texts = [json.dumps(value) for value in values]
    twice = [text for text in texts if texts.count(text) > 1]
    if twice:
        raise ConfigError(f"search: {name}: choice has {twice[0]} twice; keep one of them.")
    lists = {text: value for text, value in zip(texts, values, strict=True) if isinstance(value, list)}
    return Domain(name, CategoricalDistribution(list(lists) or values), tuple(values), lists)


def _range(name: str, form: str, values: list[Any]) -> Domain:
    if len(values) != 2 and not (form == "int" and len(values) == 3):
        raise ConfigError(f"search: {name}: {form}: {values} is not possible; expected {FORMS[form]}.")
    low, high, *rest = values
    if not low < high:
        raise ConfigError(f"search: {name}: {form}: {values} is not possible; expected low below high.")
    if form == "loguniform" and low <= 0:
        raise ConfigError(f"search: {name}: loguniform: {values} is not possible; expected low above 0, or uniform.")
    if form != "int":
        return Domain(name, FloatDistribution(low, high, log=form == "loguniform"), (low, high), {})
    step = rest[0] if rest else 1
    if step < 1 or (high - low) % step:
        fitting = [low, low + max(1, (high - low) // step) * step, step] if step >= 1 else [low, high, 1]
        raise ConfigError(
            f"search: {name}: int: {values} is not possible; expected a step of 1 or more that leads from low to high, "
            f"such as {fitting}."
        )
    return Domain(name, IntDistribution(low, high, step=step), (low, high), {})


def _typed(name: str, form: str, value: Any, kind: Any) -> Any:
    """`value` if it is of the type; whole numbers pass for numbers."""
    if get_origin(kind) is list and isinstance(value, list):
        return [_typed(name, form, item, get_args(kind)[0]) for item in value]
    if get_origin(kind) is Literal and not isinstance(value, bool) and value in get_args(kind):
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (bool, int, str) and type(value) is kind:
        return value
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    raise ConfigError(
        f"search: {name}: {form}: {value!r} is not possible; expected {told(kind)}.{nearest(value, choices)}"
    )
