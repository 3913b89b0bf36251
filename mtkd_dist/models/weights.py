"""Network files: read without running code, loaded without a key too many or too few, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from mtkd_dist.models.basicsr_names import official_names
from mtkd_dist.models.edsr import EDSR, MEAN_SHIFT_KEYS, describe_edsr, mean_shift_range
from mtkd_dist.models.registry import build_network, count_params, parse_network
from mtkd_dist.models.rlfn import describe_rlfn
from mtkd_dist.models.spandrel_adapter import recognise

_WRAPPERS = ("params_ema", "params", "state_dict", "model")
_LISTED_KEYS = 5
_PROGRAMS = {".onnx": "an ONNX file", ".pt2": "a program of torch.export"}
"""Ending -> what `mtkd export` writes beside the weights, and what holds a network's code instead."""
_TORCH_STARTS = (b"PK", b"\x80")
"""What a file of torch.save begins with: an archive, or a pickle before torch 1.6."""


class WeightsMismatch(ValueError):
    """A state dict and a network differ in keys or shapes; nothing was loaded."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A frozen network from a file."""

    module: nn.Module
    """In eval mode, without gradients: (B,3,h,w) float RGB in [0,1] -> (B,3,s*h,s*w), unclamped; any h and w."""
    architecture: str
    """Network text (`edsr-baseline:width=32`) for our own architectures, else the name that spandrel gives."""
    scale: int
    params: int
    input_range: float
    """The file's own network works on values in [0, input_range]; `module` converts."""


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, from a `.safetensors` file or from one that `torch.save` wrote.

    Unwraps `params_ema`, `params`, `state_dict` and `model` (the first that is there), and drops a `module.` that all
    keys begin with. Raises FileNotFoundError, or ValueError where the file cannot be read without running code from it
    or holds something else than tensors by name.
    """
    path = Path(path)
    content = _read(path)
    while isinstance(content, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: expected tensors by name (a state dict), found {_kind(content)}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: not a state dict: {key!r} holds {_kind(value)}, expected a tensor")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return {key.removeprefix(prefix): value for key, value in content.items()}


def load_strict(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """Copy `state_dict` into `module`; `source` names the file in errors.

    Raises WeightsMismatch, with the module unchanged, that lists missing, unexpected and misshapen keys.
    """
    own = module.state_dict()
    faults = {
        "missing": [key for key in own if key not in state_dict],
        "unexpected": [key for key in state_dict if key not in own],
        "misshapen": [
            f"{key} {tuple(state_dict[key].shape)} instead of {tuple(tensor.shape)}"
            for key, tensor in own.items()
            if key in state_dict and state_dict[key].shape != tensor.shape
        ],
    }
    if any(faults.values()):
        found = "; ".join(f"{len(keys)} {fault}: {_abridged(keys)}" for fault, keys in faults.items() if keys)
        raise WeightsMismatch(f"{source} does not fit {type(module).__name__} ({len(own)} keys): {found}")
    module.load_state_dict(dict(state_dict))


def save_network(path: str | os.PathLike[str], module: nn.Module, metadata: Mapping[str, str]) -> None:
    """Write the weights as float32 safetensors, with `metadata`; a reader of `path` meets the old file or the new one.

    `load_network` rebuilds the network from the metadata `network` (its text) and `scale`. Equal networks with equal
    metadata are equal files: digests of files are what tells networks apart.
    """
    save_tensors(path, module.state_dict(), metadata)


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The same for tensors by name."""
    path = Path(path)
    written = {
        key: (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for key, tensor in tensors.items()
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(_with_sorted_metadata(save(written, metadata=dict(metadata))))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _with_sorted_metadata(content: bytes) -> bytes:
    """A file of safetensors, which writes metadata in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format wants tensors aligned
    return len(text).to_bytes(8, "little") + text + content[end:]


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What `save_network` was given; empty for files without metadata and for those of `torch.save`."""
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from error


def digest_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_network(
    path: str | os.PathLike[str], scale: int | None = None, input_range: float | None = None
) -> LoadedNetwork:
    """Build the network that a file belongs to, and fill it.

    Our own files are rebuilt from their metadata; EDSR and RLFN are recognised by their keys, all else by spandrel.
    EDSR and RCAN may have the official names or those of BasicSR.
    `input_range` is the range of values that the file's network was trained on. Default: 255 for published EDSR (read
    from its mean shift where there is one) and RLFN files, else 1. No file states it; `check_input_range` finds out a
    wrong one.
    Raises ValueError for an unknown architecture or a scale other than `scale`, WeightsMismatch for wrong keys.
    """
    path = Path(path)
    if input_range is not None and not 0 < input_range < float("inf"):
        raise ValueError(f"{path}: input_range={input_range} must be a number above 0, usually 1 or 255")
    state_dict = read_state_dict(path)
    network, architecture, found_scale, usual_range = _build_for(state_dict, path, input_range)
    if scale is not None and scale != found_scale:
        raise ValueError(f"{path}: enlarges {found_scale} times, expected {scale}; give a file for x{scale} instead")
    value_range = usual_range if input_range is None else input_range
    params = count_params(network)
    module = network if value_range == 1 else _Ranged(network, value_range)
    return LoadedNetwork(module.eval().requires_grad_(False), architecture, found_scale, params, value_range)


@torch.no_grad()
def check_input_range(
    network: nn.Module, lr: Tensor, scale: int, name: str, input_range: float, min_db: float = 25.0
) -> float:
    """Whether the network's answer, shrunk back, is its question again: the PSNR of that in dB.

    `network` is the `module` of a teacher `name` loaded for `input_range`; `lr` is (B,3,h,w) float RGB in [0,1] on its
    device, best a photograph of 64x64 or more. Raises ValueError where one of the usual ranges 1 and 255 does better by
    3 dB and reaches 40 dB, or where the PSNR is below `min_db`.

    A threshold alone cannot tell: on Set5 the right range gives 42-65 dB, the wrong one 27-52 dB. On one and the same
    image the right range is ahead by 7 dB or more in all files tried (RLFN, DCTLSA, CRAFT). The 40 dB keep a network
    that was hardly trained, and answers badly in any range, from being told the wrong reason. Untrained networks give
    about 12 dB, a few hundred steps of training 30-36 dB.
    """
    db = _answer_db(network, lr, scale, 1.0)
    others = {
        other: _answer_db(network, lr, scale, other / input_range) for other in {1.0, 255.0} - {float(input_range)}
    }
    best = max(others, key=others.__getitem__)
    measured = (
        f"teacher {name!r}: its answer, shrunk back, is {db:.1f} dB from its input at input_range={input_range:g}"
    )
    if others[best] >= max(db + 3, 40):
        raise ValueError(
            f"{measured}, but {others[best]:.1f} dB at {best:g}: it was trained on values in 0..{best:g}. "
            f"Give it as FILE:input_range={best:g}"
        )
    if not db >= min_db:  # also where it is NaN
        raise ValueError(
            f"{measured}, expected {min_db:g} dB or more, and {others[best]:.1f} dB at {best:g}. Either it was trained "
            f"on values in another range (FILE:input_range=...) or it is no trained x{scale} network for RGB images"
        )
    return db


class _Ranged(nn.Module):
    """A network that was trained on values in [0, value_range], made to take and give values in [0,1]."""

    def __init__(self, network: nn.Module, value_range: float) -> None:
        super().__init__()
        self.network = network
        self.value_range = value_range

    def forward(self, lr: Tensor) -> Tensor:
        return self.network(lr * self.value_range) / self.value_range


def _answer_db(network: nn.Module, lr: Tensor, scale: int, factor: float) -> float:
    """PSNR in dB of the shrunk answer against `lr`, for values `factor` times as large inside the network."""
    sr = (network(lr * factor) / factor).clamp(0, 1)
    if sr.shape[-2:] != (lr.shape[-2] * scale, lr.shape[-1] * scale):
        raise ValueError(
            f"the network turned {tuple(lr.shape)} into {tuple(sr.shape)}, expected {scale} times the size"
        )
    shrunk = interpolate(sr, size=lr.shape[-2:], mode="bicubic", antialias=True)
    return -10 * mse_loss(shrunk, lr).clamp_min(1e-10).log10().item()


def _build_for(
    state_dict: dict[str, Tensor], path: Path, input_range: float | None
) -> tuple[nn.Module, str, int, float]:
    """(filled network, its text, scale, usual input range)."""
    metadata = read_metadata(path)
    if "network" in metadata:
        try:
            spec, scale = parse_network(metadata["network"]), int(metadata["scale"])
            network = build_network(spec, scale)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: its metadata {metadata} name no network that can be built: {error}") from error
        load_strict(network, state_dict, str(path))
        return network, spec.text, scale, 1.0
    state_dict = official_names(state_dict, input_range or 255.0)
    if edsr := describe_edsr(state_dict):
        spec, scale = parse_network(edsr[0]), edsr[1]
        shifted = state_dict.keys() >= MEAN_SHIFT_KEYS
        value_range = mean_shift_range(state_dict) if shifted else input_range or 1.0
        network = EDSR(scale, **spec.sizes, value_range=value_range)  # type: ignore[arg-type]
        weights = {key: value for key, value in state_dict.items() if not shifted or key not in MEAN_SHIFT_KEYS}
        load_strict(network, weights, str(path))
        return network, spec.text, scale, value_range
    if rlfn := describe_rlfn(state_dict):
        spec, scale = parse_network(rlfn[0]), rlfn[1]
        network = build_network(spec, scale)
        load_strict(network, state_dict, str(path))
        return network, spec.text, scale, 255.0
    recognised = recognise(state_dict, str(path))
    return recognised, recognised.architecture, recognised.scale, 1.0


def _read(path: Path) -> object:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.suffix in _PROGRAMS:
        raise ValueError(f"{path}: {_PROGRAMS[path.suffix]} is no weight file; {_weights_beside(path)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _begins_with(path, _TORCH_STARTS):
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: refused, because reading it would run code that the file holds (it is more than weights). "
            "Save `model.state_dict()` alone, best as .safetensors"
        ) from error
    except Exception as error:  # torch and safetensors raise many types for a file that is cut short or of another kind
        raise ValueError(f"{path}: not a readable weights file: {type(error).__name__}: {error}") from error
    raise ValueError(
        f"{path}: this is no weight file; expected safetensors, or what torch.save writes (.pth, .pt, .ckpt)"
    )


def _weights_beside(path: Path) -> str:
    weights = path.with_suffix(".safetensors")
    if weights.is_file():
        return f"give {weights}, which lies beside it"
    return f"give the {weights.name} that `mtkd export --formats safetensors` writes"


def _begins_with(path: Path, starts: tuple[bytes, ...]) -> bool:
    with path.open("rb") as file:
        return file.read(max(map(len, starts))).startswith(starts)


def _kind(value: object) -> str:
    return "nothing" if value is None or value == {} else f"a {type(value).__name__}"


def _abridged(keys: Iterable[str]) -> str:
    listed = list(keys)
    rest = len(listed) - _LISTED_KEYS
    return ", ".join(listed[:_LISTED_KEYS]) + (f" and {rest} more" if rest > 0 else "")
