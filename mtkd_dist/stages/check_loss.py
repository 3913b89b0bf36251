"""The part of the check that is about the loss of the chosen method."""

from __future__ import annotations

import math

import torch

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config
from mtkd_dist.methods import BANDS
from mtkd_dist.stages.distil_method import settings_unused, settings_used
from mtkd_dist.stages.refuse import parsed, require
from mtkd_kernels import haar_l1_loss

OF_TEACHERS = ("loss.teacher_weights", "loss.each_teacher")
"""Settings that have a number for each of the teachers."""


def check_loss(config: Config) -> None:
    """Errors: ConfigError for settings that cannot work, and for such that were set although nothing looks at them."""
    _check_unused(config)
    used = settings_used(config)
    weights = {key: _value(config, key) for key in sorted(used) if key.endswith("_weight")}
    for key, weight in weights.items():
        require(0 <= weight < math.inf, key, weight, "0 or more")
    # What says how the student's own image is to be: a distance between features does not, nor one through teachers.
    of_image = [key for key in weights if key.endswith((".hr_weight", ".teacher_weight"))]
    require(
        not of_image or any(weights[key] for key in of_image),
        " and ".join(of_image),
        0,
        f"{'one of them' if of_image[1:] else 'a number'} above 0: with nothing to compare the student's image with, "
        "it would not learn to make one",
    )
    if "dukd.alter" in used:
        require(0 <= config.dukd.alter <= 1, "dukd.alter", config.dukd.alter, "a probability from 0 to 1")
    require(0 < config.loss.charbonnier_eps < math.inf, "loss.charbonnier_eps", config.loss.charbonnier_eps, "above 0")
    for key in OF_TEACHERS:
        if key in used:
            _check_of_teachers(key, getattr(config.loss, key.removeprefix("loss.")), len(config.teachers))
    if "loss.levels" in used:
        _check_wavelet(config)


def _value(config: Config, key: str) -> float:
    group, _, name = key.partition(".")
    value: float = getattr(getattr(config, group), name)
    return value


def _check_unused(config: Config) -> None:
    used = settings_used(config)
    for key, (value, default) in settings_unused(config).items():
        if value == default:
            continue
        who = f"the method {config.method}"
        if (
            "loss.distance" in used
            and key.startswith("loss.")
            and key not in ("loss.teacher_weights", "loss.each_teacher")
        ):
            who += f" with loss.distance {config.loss.distance}"
        raise ConfigError(
            f"{key}: {value} would change nothing: {who} has no such setting; take it out, or choose a method that has "
            f"it. Settings of this one: {', '.join(sorted(used)) or 'none'}."
        )


def _check_of_teachers(key: str, weights: list[float], count: int) -> None:
    require(
        len(weights) in (0, count) and all(0 <= weight < math.inf for weight in weights),
        key,
        weights,
        f"{count} numbers of 0 or more, one for each of the teachers in their order, or none",
    )
    require(not weights or any(weights), key, weights, "one of them at least above 0")


def _check_wavelet(config: Config) -> None:
    loss, side = config.loss, config.distil.patch * config.scale
    require(loss.levels >= 1, "loss.levels", loss.levels, "at least 1")
    require(
        side % 2**loss.levels == 0,
        "loss.levels",
        loss.levels,
        f"distil.patch x scale = {side} to be divisible by 2^levels = {2**loss.levels}",
    )
    # The transform itself knows best which names and sizes it takes.
    image = torch.zeros(1, 1, side, side)
    parsed("loss.wavelet", image, lambda image: haar_l1_loss(image, image, loss.levels, wavelet=loss.wavelet))
    weights = loss.band_weights
    require(
        len(weights) in (0, len(BANDS)) and all(0 <= weight < math.inf for weight in weights),
        "loss.band_weights",
        weights,
        f"{len(BANDS)} numbers of 0 or more, for {', '.join(BANDS)}, or none",
    )
    require(
        not weights or any(weights),
        "loss.band_weights",
        weights,
        "one of them at least above 0: from none of the bands would the student learn what the teachers know",
    )
