"""The part of the check that is about what the chosen method asks of networks, patches and the link."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config
from mtkd_dist.methods import (
    DUKD,
    ChecksNetworks,
    CrossKD,
    Featured,
    FrozenNetworks,
    NeedsNetworks,
    Unsuitable,
    images_asked,
    values_sent_by,
)
from mtkd_dist.models import build_network
from mtkd_dist.pools.wire import sample_bytes
from mtkd_dist.stages.distil_method import distil_method
from mtkd_dist.stages.refuse import require
from mtkd_dist.stages.teacher_spec import parse_teachers


def check_method_settings(config: Config) -> None:
    """What can be said without networks. Errors: ConfigError."""
    method = distil_method(config)
    if isinstance(method, Featured):
        require(
            config.link.wire != "uint8",
            "link.wire",
            config.link.wire,
            f"float16 or float32: the method {config.method} sends more than images, which uint8 is for",
        )
    if isinstance(method, Featured | CrossKD):
        require(
            not config.distil.compile,
            "distil.compile",
            config.distil.compile,
            f"false: the method {config.method} looks into the student while it computes, which compiled code forbids",
        )
    if isinstance(method, DUKD):
        try:
            method.check_patch(config.distil.patch, config.scale)
        except Unsuitable as error:
            raise _refusal(error, config) from None
    if config.teacher_outputs == "cached":
        require(
            not needs_networks(config),
            "teacher_outputs",
            config.teacher_outputs,
            f"live: the method {config.method} asks the teachers for more than their images of the photographs, which "
            "are all that is rendered",
        )


def check_method(config: Config, given: Mapping[str, nn.Module]) -> None:
    """Asks the method about the networks of this run, built with random weights where they are trained first.

    `given`: name of each teacher that is a file -> its network, on the CPU.
    Errors: ConfigError.
    """
    method = distil_method(config)
    particular, unknown = isinstance(method, ChecksNetworks), needs_networks(config)
    if not particular and not unknown:
        return
    teachers = {
        teacher.name: given[teacher.name] if teacher.network is None else build_network(teacher.network, config.scale)
        for teacher in parse_teachers(config.teachers)
    }
    patch = config.distil.patch
    if isinstance(method, ChecksNetworks):
        for network in (config.student, *config.more_students):
            try:
                method.check(build_network(network, config.scale), teachers, patch)
            except Unsuitable as error:
                raise _refusal(error, config, f" (student {network})" if config.more_students else "") from None
    if unknown:
        values = values_sent_by(method, FrozenNetworks(teachers), config.scale, patch)
        need = config.distil.batch_size * sample_bytes(patch, config.scale, values, config.link.wire)
        require_room(config, need)


def needs_networks(config: Config) -> bool:
    """Whether the method wants more of its teachers than images, so that only they can tell what it sends."""
    # Weights of teachers say nothing of it, and whether they are as many as the teachers is found out later.
    unweighted = dataclasses.replace(config.loss, teacher_weights=[], each_teacher=[])
    method = distil_method(dataclasses.replace(config, loss=unweighted))
    try:
        images_asked(method, max(1, len(config.teachers)), config.scale)
    except NeedsNetworks:
        return True
    return False


def require_room(config: Config, need: int) -> None:
    """Errors: ConfigError where the answers of one step, of `need` bytes, would not fit into the link."""
    require(
        config.link.max_bytes >= need,
        "link.max_bytes",
        config.link.max_bytes,
        f"at least {need}, the answers of one step (lower batch_size or patch, or raise it)",
    )


def _refusal(error: Unsuitable, config: Config, about: str = "") -> ConfigError:
    group = {"teachers": "", "patch": "distil."}.get(error.setting, f"{config.method}.")
    return ConfigError(f"{group}{error.setting}: {error}{about}.")
