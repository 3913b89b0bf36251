"""A program of `torch.export`: runs with torch alone, without mtkd-dist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from torch.export import ExportedProgram

from mtkd_dist.export.trace import largest_difference, quiet

METADATA = "metadata.json"
"""Name under which the metadata lies in the file (`extra_files` of `torch.export.load`)."""


def write_program(path: Path, program: ExportedProgram, network: nn.Module, metadata: Mapping[str, str]) -> float:
    """Write the traced `network` and ask the file for what it answers; returns the largest difference.

    Errors: ValueError as `largest_difference`.
    """
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    with quiet():
        torch.export.save(program, path, extra_files={METADATA: json.dumps(dict(metadata))})
        return largest_difference(torch.export.load(path).module(), network, path.name)
