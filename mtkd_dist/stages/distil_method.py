"""The method that stage `distil` trains the student with, and what it uses of the configuration. Pure."""

from __future__ import annotations

import dataclasses
from typing import get_args

from mtkd_dist.config.load import ConfigError, flatten, nearest
from mtkd_dist.config.tree import Config, MethodName
from mtkd_dist.methods import (
    DUKD,
    LEVELS,
    MTKD,
    AttentionTransfer,
    CrossKD,
    FeatureAffinity,
    MeanOfTeachers,
    Method,
    NeedsNetworks,
    ResponseKD,
    Supervised,
    images_asked,
)
from mtkd_dist.methods.own import is_own, own_method, own_title, where_in

METHODS: tuple[MethodName, ...] = get_args(MethodName)
"""Those that come with the package."""

_OWN_GROUPS: tuple[MethodName, ...] = ("kd", "at", "fakd", "dukd", "crosskd")
"""Methods with a group of settings of their own, called as they are."""
GROUPS = ("loss", *_OWN_GROUPS)
"""Groups of keys that are settings of a method."""


def _group(method: MethodName) -> tuple[str, ...]:
    return tuple(f"{method}.{setting.name}" for setting in dataclasses.fields(getattr(Config(), method)))


_SETTINGS: dict[str, tuple[str, ...]] = {
    "mtkd": ("loss.distance", "loss.l1_weight", "loss.each_teacher"),
    "mean": ("loss.distance", "loss.l1_weight", "loss.teacher_weights"),
    "scratch": (),
    **{method: _group(method) for method in _OWN_GROUPS},
    "kd": (*_group("kd"), "loss.teacher_weights"),
}
_OF_DISTANCE = {
    "wavelet": ("loss.levels", "loss.wavelet", "loss.band_weights"),
    "l1": (),
    "charbonnier": ("loss.charbonnier_eps",),
}


def distil_method(config: Config) -> Method:
    """Errors: ConfigError for a method that is unknown, or whose file does not hold one."""
    loss = dataclasses.asdict(config.loss)
    teacher_weights, each_teacher = loss.pop("teacher_weights"), loss.pop("each_teacher")
    match config.method:
        case "mtkd":
            return MTKD(**loss, each_teacher=each_teacher)
        case "mean":
            return MeanOfTeachers(**loss, teacher_weights=teacher_weights)
        case "kd":
            return ResponseKD(**dataclasses.asdict(config.kd), teacher_weights=teacher_weights)
        case "at":
            return AttentionTransfer(**dataclasses.asdict(config.at))
        case "fakd":
            return FeatureAffinity(**dataclasses.asdict(config.fakd))
        case "dukd":
            return DUKD(**dataclasses.asdict(config.dukd))
        case "crosskd":
            return CrossKD(**dataclasses.asdict(config.crosskd))
        case "scratch":
            return Supervised()
        case own if is_own(own):
            try:
                return own_method(own)
            except ValueError as error:
                raise ConfigError(f"method: {error}") from error
        case unknown:
            raise ConfigError(
                f"method: {unknown!r} is unknown; one of {', '.join(METHODS)}, or a file of your own (FILE.py)."
                f"{nearest(unknown, METHODS)}"
            )


def method_title(method: str) -> str:
    """What tables, folders and files call it: its name, or that of its file."""
    return own_title(method) if is_own(method) else method


def named_taps(config: Config) -> list[str]:
    """Where features of the student are taken by names that belong to its architecture, unlike those of `LEVELS`."""
    taps: dict[str, list[str]] = {"at": config.at.taps, "fakd": config.fakd.taps, "crosskd": [config.crosskd.tap]}
    return [tap for tap in taps.get(config.method, []) if tap not in LEVELS]


def needs_aggregator(config: Config) -> bool:
    """Whether there is a stage `aggregate`. A method of the user's own is asked; one that wants the networks
    themselves gets no aggregator with them."""
    if not is_own(config.method):
        return config.method == "mtkd"
    method = distil_method(config)
    try:
        return method.needs_teachers and "aggregate" in images_asked(method, max(1, len(config.teachers)), config.scale)
    except NeedsNetworks:
        return False
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise ConfigError(f"method: {config.method}{where_in(error, config.method)}: teach fails ({told}).") from error


def settings_used(config: Config) -> frozenset[str]:
    """Dotted keys of the loss that the chosen method, and in it the chosen distance, look at."""
    own = _SETTINGS.get(config.method, ())
    return frozenset(own + (_OF_DISTANCE[config.loss.distance] if "loss.distance" in own else ()))


def settings_unused(config: Config) -> dict[str, tuple[object, object]]:
    """Dotted keys of losses that the chosen method does not look at -> (value, default)."""
    values, defaults = (
        flatten({name: dataclasses.asdict(getattr(tree, name)) for name in GROUPS}) for tree in (config, Config())
    )
    used = settings_used(config)
    return {key: (value, defaults[key]) for key, value in values.items() if key not in used}


def in_force(config: Config) -> tuple[Config, list[str]]:
    """The configuration without the networks that the method does not ask, and a line for the screen about each.

    So one file with teachers and an aggregator serves all methods.
    """
    lines: list[str] = []
    title = method_title(config.method)
    if config.teachers and not distil_method(config).needs_teachers:
        lines.append(f"teachers: {', '.join(config.teachers)} not used, {title} learns from the truth alone")
        config = dataclasses.replace(config, teachers=[])
    if not needs_aggregator(config):
        lines.append(f"aggregate: left out, {title} needs no aggregator")
        config = dataclasses.replace(config, aggregator=Config().aggregator)
    return config, lines
