"""The search space: which names of the configuration a sweep may try, where their values come from, what they mean.

Names are those of the configuration tree (loss.levels) and options of a network in it (aggregator.width). Everything is
checked against the configuration that all trials share before anything starts.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from mtkd_dist.config.load import ConfigError, keys_of, nearest
from mtkd_dist.config.tree import Config
from mtkd_dist.methods import LEVELS
from mtkd_dist.models import NetworkSpec, aggregator_path, build_network, parse_aggregator, parse_network
from mtkd_dist.stages.check import check_settings
from mtkd_dist.stages.distil_method import named_taps, needs_aggregator, settings_unused
from mtkd_dist.stages.training import WEIGHTLESS
from mtkd_tune.domains import Domain, parse_domain

# Optuna tells of every study that is made, which a user has not asked for.
optuna.logging.set_verbosity(optuna.logging.WARNING)

NETWORKS: dict[str, Callable[[str], NetworkSpec]] = {"aggregator": parse_aggregator, "student": parse_network}
"""Keys whose text is a network with options -> how it is read."""

_SHARED = "all trials share the photographs, the teachers and their answers, which depend on it"
_WEIGHTLESS = "no weight depends on it"
_REFUSED = {
    **dict.fromkeys(("data", "images", "scale", "teachers", "teacher_training", "teacher_precision"), _SHARED),
    **dict.fromkeys(("teacher_outputs", "answers", "link"), _SHARED),
    **dict.fromkeys(("output", "test", "num_gpus", "teacher_gpus", "student_gpus", "plan_only"), _WEIGHTLESS),
    **dict.fromkeys(("on_change", "cluster"), _WEIGHTLESS),
    "method": "methods have settings of their own, and the aggregator, which some do not need, is shared",
    "loss.distance": "each distance has settings of its own; search those of one",
    **dict.fromkeys(
        ("at.taps", "at.teacher_taps", "fakd.taps", "fakd.teacher_taps", "crosskd.tap", "crosskd.teacher_tap"),
        "which there are is asked of the networks, once and before the sweep starts",
    ),
    "preset": "the defaults of all trials come from one preset",
    "seed": "it is the same for all trials, so that they differ in what is searched and in nothing else",
    "more_students": "a trial trains one student, and its scores are those of that one",
    "student_weights": "weights to start from fit one student and are the same for all trials",
}
"""Key, or first word of keys -> why no sweep searches it."""

_TRIES = 64
"""So many combinations with the other values may show that a value can work which cannot with theirs in `launch`."""


@dataclass(frozen=True)
class Space:
    """What a sweep searches, in the order of its YAML."""

    domains: tuple[Domain, ...]

    @classmethod
    def parse(cls, search: Mapping[str, Any], base: Config) -> Space:
        """`search`: name -> {choice: [...]}, {uniform: [low, high]}, {loguniform: [low, high]}, {int: [low, high]} or
        {int: [low, high, step]}; `base`: the configuration that all trials share.

        Errors: ConfigError for a name that is unknown or not to be searched, and for values that have not its type or
        cannot work: each of a choice, and both ends of a range.
        """
        if not search:
            raise ConfigError("search: nothing to search; expected NAME: {choice: [...]}, such as loss.levels.")
        search = {str(name): said for name, said in search.items()}  # YAML takes 1 or yes for something else
        kinds = _kinds(search, base)
        space = cls(
            tuple(parse_domain(name, said, _kind(name, kinds, base)) for name, said in search.items()),
        )
        space._check_values(base)
        return space

    def __iter__(self) -> Iterator[Domain]:
        return iter(self.domains)

    def __contains__(self, name: object) -> bool:
        return any(domain.name == name for domain in self.domains)

    def __getitem__(self, name: str) -> Domain:
        return next(domain for domain in self.domains if domain.name == name)

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Name -> what Optuna draws from."""
        return {domain.name: domain.distribution for domain in self.domains}

    def values(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """What Optuna drew, as values of the configuration."""
        return {domain.name: domain.value(sampled[domain.name]) for domain in self.domains}

    def config(self, base: Config, values: Mapping[str, Any]) -> Config:
        """`base` with these values; networks are not checked, so that any combination has a configuration."""
        config = base
        for name, value in values.items():
            if _role(name) is None:
                config = _replaced(config, name.split("."), value)
        for role, parse in NETWORKS.items():
            options = {name.partition(".")[2]: value for name, value in values.items() if _role(name) == role}
            if options:
                config = _replaced(config, [role], parse(getattr(config, role)).resized(options))
        return config

    def with_largest_patches(self, base: Config) -> Config:
        """`base` with the largest crops that a trial may take: every photograph must be large enough for all trials."""
        for name in ("aggregate.patch", "distil.patch"):
            if name in self:
                base = _replaced(base, name.split("."), max(self[name].tested))
        return base

    def _check_values(self, base: Config) -> None:
        for domain in self.domains:
            for value in domain.tested:
                why = why_not(self.config(base, {domain.name: value}))
                if why and not self._works_with_others(base, domain.name, value):
                    raise ConfigError(f"search: {domain.name}: {value!r} cannot work. {why}")

    def _works_with_others(self, base: Config, name: str, value: Any) -> bool:
        if len(self.domains) == 1:
            return False
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = (self.values(study.ask(self.distributions()).params) for _ in range(_TRIES))
        return any(why_not(self.config(base, values | {name: value})) is None for values in drawn)


def why_not(config: Config) -> str | None:
    """Why these settings cannot work together, as a sentence; None where they can. Reads no file."""
    try:
        check_settings(config)
        _build_student(config.student, config.scale)
    except ValueError as error:
        return str(error)
    return None


@functools.lru_cache(maxsize=1024)
def _build_student(network: str, scale: int) -> None:
    build_network(network, scale)


def _role(name: str) -> str | None:
    """The network that `name` is an option of."""
    role, dot, _ = name.partition(".")
    return role if dot and role in NETWORKS else None


def _replaced(tree: Any, path: Sequence[str], value: Any) -> Any:
    first, *rest = path
    return dataclasses.replace(tree, **{first: _replaced(getattr(tree, first), rest, value) if rest else value})


def _kinds(search: Mapping[str, Any], base: Config) -> dict[str, Any]:
    """All names that a sweep may search, with their types."""
    keys = {key: kind for key, kind in keys_of(Config).items() if not dataclasses.is_dataclass(kind)}
    kinds = {key: kind for key, kind in keys.items() if _refusal(key, base) is None}
    for role, parse in NETWORKS.items():
        if _refusal(role, base):
            continue
        texts = _texts(role, search, base)
        try:
            options = [parse(text).kinds for text in texts]
        except ValueError as error:
            raise ConfigError(f"search: {role}: {error}") from None
        # Of several networks, what all of them have.
        kinds |= {
            f"{role}.{key}": kind
            for key, kind in (options[0] if options else {}).items()
            if all(key in other for other in options)
        }
    return kinds


def _texts(role: str, search: Mapping[str, Any], base: Config) -> list[str]:
    said = search.get(role)
    chosen = said.get("choice") if isinstance(said, Mapping) else None
    texts = chosen if isinstance(chosen, list) and chosen else [getattr(base, role)]
    if chosen and any(not isinstance(text, str) or aggregator_path(text) for text in texts):
        raise ConfigError(f"search: {role}: {texts} is not possible; expected texts of networks to train.")
    return texts


def _refusal(name: str, base: Config) -> str | None:
    """Why a key of the configuration is not to be searched."""
    first, _, last = name.partition(".")
    if first in ("aggregator", "aggregate") and aggregator_path(base.aggregator):
        return f"the aggregator is a file ({base.aggregator}) and used as it is"
    if first in ("aggregator", "aggregate") and not needs_aggregator(base):
        return f"the method {base.method} has no aggregator"
    if name in settings_unused(base):
        return f"the method {base.method} (loss.distance {base.loss.distance}) does not look at it"
    if first == "student" and base.student_weights is not None:
        return f"student_weights ({base.student_weights}) fit {base.student} alone"
    if first == "student" and named_taps(base):
        return (
            f"{', '.join(named_taps(base))} are modules of {base.student}; search with the taps {', '.join(LEVELS)}, "
            "which every network has"
        )
    if first in ("aggregate", "distil") and last in WEIGHTLESS:
        return _WEIGHTLESS
    return _REFUSED.get(name, _REFUSED.get(first))


def _kind(name: str, kinds: Mapping[str, Any], base: Config) -> Any:
    if name in kinds:
        return kinds[name]
    keys = keys_of(Config)
    why = _refusal(name, base) if name in keys or _role(name) else None
    if why:
        raise ConfigError(f"search: {name} is not to be searched: {why}. Take it out of search.")
    held = [key for key in kinds if key.startswith(f"{name}.")]
    if held:
        raise ConfigError(f"search: {name} is a group of keys; search one of them by its full name: {', '.join(held)}.")
    raise ConfigError(
        f"search: unknown name {name!r}.{nearest(name, [*kinds, *keys])} May be searched: {', '.join(kinds)}."
    )
