"""The method that stage `distil` trains the student with, and what it uses of the configuration. Pure."""

from __future__ import annotations

import dataclasses

from mtkd_dist.config.load import flatten
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
    ResponseKD,
    Supervised,
)

_OWN_GROUPS: tuple[MethodName, ...] = ("kd", "at", "fakd", "dukd", "crosskd")
"""Methods with a group of settings of their own, called as they are."""
GROUPS = ("loss", *_OWN_GROUPS)
"""Groups of keys that are settings of a method."""


def _group(method: MethodName) -> tuple[str, ...]:
    return tuple(f"{method}.{setting.name}" for setting in dataclasses.fields(getattr(Config(), method)))


_SETTINGS: dict[MethodName, tuple[str, ...]] = {
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


def named_taps(config: Config) -> list[str]:
    """Where features of the student are taken by names that belong to its architecture, unlike those of `LEVELS`."""
    taps: dict[str, list[str]] = {"at": config.at.taps, "fakd": config.fakd.taps, "crosskd": [config.crosskd.tap]}
    return [tap for tap in taps.get(config.method, []) if tap not in LEVELS]


def needs_aggregator(config: Config) -> bool:
    """Whether there is a stage `aggregate`."""
    return config.method == "mtkd"


def settings_used(config: Config) -> frozenset[str]:
    """Dotted keys of the loss that the chosen method, and in it the chosen distance, look at."""
    own = _SETTINGS[config.method]
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
    if config.teachers and not distil_method(config).needs_teachers:
        lines.append(f"teachers: {', '.join(config.teachers)} not used, {config.method} learns from the truth alone")
        config = dataclasses.replace(config, teachers=[])
    if not needs_aggregator(config):
        lines.append(f"aggregate: left out, {config.method} needs no aggregator")
        config = dataclasses.replace(config, aggregator=Config().aggregator)
    return config, lines
