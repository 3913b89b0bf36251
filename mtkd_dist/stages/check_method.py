"""The part of the check that is about what the chosen method asks of networks, patches and the link."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config
from mtkd_dist.methods import (
    DUKD,
    Batch,
    ChecksNetworks,
    Crops,
    CrossKD,
    Featured,
    FrozenNetworks,
    Losses,
    Method,
    NeedsNetworks,
    Unsuitable,
    images_asked,
    values_sent_by,
)
from mtkd_dist.methods.own import is_own, where_in
from mtkd_dist.models import build_network
from mtkd_dist.pools.wire import sample_bytes
from mtkd_dist.stages.distil_method import distil_method, method_title
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
    own = is_own(config.method)
    if not particular and not unknown and not own:
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
    if own:
        rehearse(config, method, teachers)
    if unknown:
        values = values_sent_by(method, FrozenNetworks(teachers), config.scale, patch)
        need = config.distil.batch_size * sample_bytes(patch, config.scale, values, config.link.wire)
        require_room(config, need)


def rehearse(config: Config, method: Method, teachers: Mapping[str, nn.Module]) -> None:
    """Asks both halves of a method of the user's own once, with the networks of the run and two crops of noise.

    A mistake in them would otherwise be told by a worker, after photographs are decoded and teachers trained.
    Errors: ConfigError that names file and line.
    """
    generator = torch.Generator().manual_seed(0)
    lr, hr = (
        torch.rand(2, 3, side, side, generator=generator)
        for side in (config.distil.patch, config.scale * config.distil.patch)
    )
    crops = Crops(lr, hr, (1, 2))
    student = build_network(config.student, config.scale)
    try:
        with torch.no_grad():
            signals = method.teach(crops, FrozenNetworks(dict(teachers), _Mean())) if method.needs_teachers else {}
        told = _wrong_signals(signals)
        losses = method.loss(student, Batch(lr, hr, signals, crops.checks)) if not told else None
    except Exception as error:
        told, at = f"{type(error).__name__}: {error}", where_in(error, config.method)
        raise ConfigError(f"method: {method_title(config.method)} fails on two crops of noise{at}: {told}.") from error
    told = told or _wrong_losses(losses)
    if told:
        raise ConfigError(f"method: {method_title(config.method)}: {told}.")


class _Mean(nn.Module):
    """In the place of an aggregator: (B,N,3,H,W) -> (B,3,H,W)."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(1)


def _wrong_signals(signals: object) -> str:
    """What is wrong with the answer of a teacher half to two samples; empty where nothing is."""
    if not isinstance(signals, dict) or not all(isinstance(signal, Tensor) for signal in signals.values()):
        return f"its teach must return tensors by name, and returned a {type(signals).__name__}"
    for name, signal in signals.items():
        if signal.ndim == 0 or len(signal) != 2:
            return f"its signal {name!r} has the shape {tuple(signal.shape)} for 2 samples; samples must come first"
        if not signal.is_floating_point():
            return f"its signal {name!r} is {signal.dtype}; expected floating point, which is how signals travel"
    return ""


def _wrong_losses(losses: object) -> str:
    if not isinstance(losses, Losses):
        return f"its loss must return Losses(total, parts), and returned a {type(losses).__name__}"
    for name, value in {"total": losses.total, **losses.parts}.items():
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.isfinite():
            return f"its loss {name!r} is {value!r} on noise; expected a finite scalar tensor"
    return "" if losses.total.requires_grad else "its loss has no gradient; it must depend on the student's answer"


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
    group = {"teachers": "", "patch": "distil."}.get(error.setting, f"{method_title(config.method)}.")
    return ConfigError(f"{group}{error.setting}: {error}{about}.")
