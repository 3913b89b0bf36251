"""Weights for a network to start its training from."""

from __future__ import annotations

import os

from torch import Tensor

from mtkd_dist.models.edsr import EDSR
from mtkd_dist.models.registry import build_network, parse_network
from mtkd_dist.models.spandrel_adapter import SpandrelNetwork
from mtkd_dist.models.weights import WeightsMismatch, load_network, load_strict


def starting_weights(path: str | os.PathLike[str], network: str, scale: int) -> dict[str, Tensor]:
    """State dict of `network` (a text such as `edsr-baseline:width=32`), filled from a file of that very network.

    A file for images in [0,255] (official EDSR) becomes one for [0,1] by dividing its biases: EDSR is made of
    convolutions, ReLU and sums, so scaling the input and all biases scales the output, and nothing else changes.
    Errors: ValueError where the file holds another network or scale, or has another range and is no EDSR.
    """
    loaded = load_network(path, scale=scale)
    expected = parse_network(network).text
    if isinstance(loaded.module, SpandrelNetwork):
        return _of_spandrel(loaded.module, path, expected, scale)
    if loaded.architecture != expected:
        raise ValueError(
            f"{path}: holds {loaded.architecture}, expected {expected}; give a file of that network, or name the "
            "file's network as the one to train"
        )
    if loaded.input_range == 1:
        return loaded.module.state_dict()
    inner = loaded.module.get_submodule("network")
    if not isinstance(inner, EDSR):
        raise ValueError(
            f"{path}: was trained on values in [0,{loaded.input_range:g}], and its weights cannot be converted exactly "
            f"to those in [0,1] that {expected} is trained on here; give a file that was trained on [0,1]"
        )
    weights = inner.state_dict()
    return {key: w / loaded.input_range if key.endswith(".bias") else w for key, w in weights.items()}


def _of_spandrel(found: SpandrelNetwork, path: str | os.PathLike[str], expected: str, scale: int) -> dict[str, Tensor]:
    """spandrel names an architecture without its sizes: published RCAN and SwinIR files are told by their keys."""
    own = build_network(expected, scale)
    try:
        load_strict(own, found.network.state_dict(), str(path))
    except WeightsMismatch as error:
        raise ValueError(
            f"{path}: holds a network of architecture {found.architecture} that is not {expected} ({error}); give a "
            "file of that network, or name the file's network, with its sizes, as the one to train"
        ) from error
    return own.state_dict()
