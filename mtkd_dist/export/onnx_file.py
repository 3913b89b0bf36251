"""ONNX: runs in onnxruntime and what is built on it, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mtkd_dist.export.trace import largest_difference, quiet
from mtkd_dist.models.spandrel_adapter import allow_torchvision_import

OPSET = 18
"""What torch's exporter writes without translating it down; every runtime of the last years has it."""
INPUT, OUTPUT = "input", "output"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def missing_packages() -> list[str]:
    """Those of the extra `export` that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def write_onnx(
    path: Path, program: ExportedProgram, network: nn.Module, scale: int, metadata: Mapping[str, str]
) -> float:
    """Write the traced `network` and ask onnxruntime for what it answers; returns the largest difference.

    Input (batch,3,height,width) float32 RGB in [0,1], output (batch,3,s*height,s*width), unclamped.
    Errors: ValueError as `largest_difference`.
    """
    import onnx

    allow_torchvision_import()  # torch's exporter imports it where it is installed
    with quiet():
        exported = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, external_data=False, verbose=False
        )
    assert exported is not None
    model = exported.model_proto
    _forget_where_it_comes_from(model.graph)
    _name_sizes(model.graph, scale)
    onnx.helper.set_model_props(model, dict(sorted({**metadata, "opset": str(OPSET)}.items())))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return largest_difference(_answers(path), network, path.name)


def _answers(path: Path) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(lr: Tensor) -> Tensor:
        (sr,) = session.run([OUTPUT], {INPUT: lr.numpy()})
        return torch.from_numpy(sr)

    return answer


def _forget_where_it_comes_from(graph: Any) -> None:
    """Stack traces hold paths of this machine, and make up half of a small file."""
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
    # The sizes inside speak of symbols that only torch knows; runtimes find them out themselves.
    del graph.value_info[:]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _forget_where_it_comes_from(attribute.g)


def _name_sizes(graph: Any, scale: int) -> None:
    for value, times in ((graph.input[0], ""), (graph.output[0], f"{scale}*")):
        batch, _, height, width = value.type.tensor_type.shape.dim
        batch.dim_param, height.dim_param, width.dim_param = "batch", f"{times}height", f"{times}width"
