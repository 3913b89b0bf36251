"""A network as one graph with batch, height and width left open, and the proof that a file answers as it does."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbols

from mtkd_dist.models.traceable import traceable

FOLLOWED = (2, 3, 24, 40)
"""Shape of the input with which the network is followed; no file may remember it."""
CHECKED = ((1, 3, 13, 22), (2, 3, 64, 59))
"""Shapes with which every file is asked: one of which every network pads something, and one that SwinIR pads to 64x64,
for which published files hold their masks."""
TOLERANCE = 1e-4
"""Largest difference of values in [0,1] that is put down to rounding."""


def trace(network: nn.Module, name: str) -> ExportedProgram:
    """(B,3,h,w) float32 -> (B,3,s*h,s*w) as a graph. `name` is the architecture, for errors.

    Errors: ValueError where it is made for some sizes only.
    """
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    try:
        # Without the setting, which torch's own ONNX export makes, a side of one pixel anywhere inside the network is a
        # case of its own, and no image that small, nor a batch of one, could be given.
        oblivious = symbols.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        with quiet(), torch.no_grad(), oblivious, traceable(network):
            program = torch.export.export(network, (torch.rand(FOLLOWED),), dynamic_shapes=(sizes,))
        largest_difference(program.module(), network, "its graph")
    except Exception as error:  # torch has a type of its own for nearly everything that it cannot follow
        raise ValueError(
            f"{name} cannot be followed with its sizes left open, which onnx and program need: {_in_words(error)}. "
            "--formats safetensors card works with every network"
        ) from error
    return program


@torch.no_grad()
def largest_difference(answer: Callable[[Tensor], Tensor], network: nn.Module, what: str) -> float:
    """Between the answers of a file and those of the network, over the shapes `CHECKED`.

    `what` names the file in errors. Errors: ValueError above `TOLERANCE`, or where it fails.
    """
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for shape in CHECKED:
        lr = torch.rand(shape, generator=generator)
        size = f"{shape[0]} image(s) of {shape[2]}x{shape[3]} pixels"
        try:
            found = answer(lr)
        except Exception as error:
            raise ValueError(f"{what} fails for {size}: {_in_words(error)}") from error
        expected = network(lr)
        if found.shape != expected.shape:
            raise ValueError(f"{what} turns {size} into {tuple(found.shape)}, expected {tuple(expected.shape)}")
        difference = (found - expected).abs().max().item()
        if not difference <= TOLERANCE:  # also where it is NaN
            raise ValueError(
                f"{what} answers {size} with values that differ by {difference:.2g} from those of the network, "
                f"expected {TOLERANCE:g} at most"
            )
        largest = max(largest, difference)
    return largest


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch says to its own developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(disabled)


def _in_words(error: Exception) -> str:
    """The first line of its text; of an error that is not ours, the type as well."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    line = line.partition(" For more information")[0].rstrip(".!")  # how to debug torch
    return line if type(error) is ValueError else f"{type(error).__name__}: {line}"
