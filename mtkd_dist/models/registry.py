"""The networks that can be named on the command line, and how a name becomes a module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from mtkd_dist.models.edsr import EDSR, EDSRSizes
from mtkd_dist.models.rlfn import RLFN, RLFNSizes
from mtkd_dist.models.sizes import NetworkSpec, check_scale, parse_spec
from mtkd_dist.models.spandrel_adapter import RCANSizes, SwinIRSizes, build_rcan, build_swinir


class _Architecture(NamedTuple):
    sizes: Any
    build: Callable[..., nn.Module]


_ARCHITECTURES = {
    "edsr": _Architecture(EDSRSizes(width=256, blocks=32, res_scale=0.1), EDSR),
    "edsr-baseline": _Architecture(EDSRSizes(), EDSR),
    "rcan": _Architecture(RCANSizes(), build_rcan),
    "rcan-light": _Architecture(RCANSizes(blocks=6), build_rcan),
    "swinir": _Architecture(SwinIRSizes(), partial(build_swinir, upsampler="pixelshuffle")),
    "swinir-light": _Architecture(
        SwinIRSizes(width=60, groups=4), partial(build_swinir, upsampler="pixelshuffledirect")
    ),
    "rlfn": _Architecture(RLFNSizes(), RLFN),
}


def network_names() -> list[str]:
    """The names that `parse_network` knows, teachers and students alike."""
    return list(_ARCHITECTURES)


def is_network_name(text: str) -> bool:
    """True where `text` begins with the name of a network (`edsr:width=32`), so that it is not meant as a file."""
    return text.partition(":")[0] in _ARCHITECTURES


def parse_network(text: str) -> NetworkSpec:
    """`NAME[:key=value,key=value]` -> checked spec; ValueError names the mistake and the nearest match."""
    return parse_spec(text, "network", {name: entry.sizes for name, entry in _ARCHITECTURES.items()})


def build_network(network: str | NetworkSpec, scale: int) -> nn.Module:
    """A freshly initialised network: (B,3,h,w) float RGB in [0,1] -> (B,3,s*h,s*w), unclamped; any h and w.

    `scale` is 2, 3 or 4. Raises ValueError for an unknown name, size or scale.
    """
    spec = parse_network(network) if isinstance(network, str) else network
    check_scale(scale)
    return _ARCHITECTURES[spec.architecture].build(scale=scale, **spec.sizes)


def count_params(module: nn.Module) -> int:
    """Number of weights that training changes, frozen now or not; a mean shift is a constant and not counted."""
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if not {"sub_mean", "add_mean"} & set(name.split("."))
    )
