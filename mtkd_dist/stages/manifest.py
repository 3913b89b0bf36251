"""What a stage leaves behind about itself, and the decision whether it has to run again."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtkd_dist.models import digest_file

FILE = "manifest.json"
PACKAGES = ("mtkd-dist", "torch", "ray", "numpy", "spandrel")


@dataclass(frozen=True)
class Manifest:
    """One finished stage."""

    stage: str
    inputs: dict[str, Any]
    """All that the result depends on: settings, and files by digest."""
    outputs: dict[str, str]
    """Path relative to the output folder -> SHA-256."""
    seed: int
    seconds: float
    summary: dict[str, Any] = field(default_factory=dict)
    """What the stage says about its course: last losses, images/s, shares of the pools."""
    scores: list[dict[str, Any]] = field(default_factory=list)
    """Rows of scores.json that belong to the stage's result; filled by the evaluate stage."""
    versions: dict[str, str] = field(default_factory=lambda: versions())


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """12 hex digits of the inputs: checkpoints of other inputs are never mistaken for these."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]


def changed(old: Manifest | None, inputs: Mapping[str, Any], outputs: Mapping[str, str | None]) -> list[str]:
    """Why a stage must run: the keys of inputs and the files that differ; empty when it is done.

    Args:
        old: the manifest found, or None.
        inputs: what the stage would depend on now.
        outputs: path -> digest as found now (None: absent) for the outputs that `old` names.
    """
    if old is None:
        return ["not done yet"]
    keys = [key for key in sorted({*old.inputs, *inputs}) if old.inputs.get(key) != inputs.get(key)]
    return keys + [path for path, digest in old.outputs.items() if outputs.get(path) != digest]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """`key: old value -> new value` for all inputs that differ, nested keys joined by dots.

    `names`: what a user calls an input. Files are told apart by the first digits of their digest.
    """
    before, after = (_flat({names.get(key, key): value for key, value in inputs.items()}) for inputs in (old, new))
    keys = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    lines = [f"{key}: {_told(before, key)} -> {_told(after, key)}" for key in keys]
    return [f"{line} (other photographs)" if line.startswith("images:") else line for line in lines]


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as one. Lists of [name, values...] are mappings by name, whose order counts."""
    if isinstance(value, Mapping):
        return {k: v for name, item in value.items() for k, v in _flat(item, f"{key}.{name}" if key else name).items()}
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], Mapping):
        return {key: value[0], **_flat(value[1], key)}
    if isinstance(value, list) and value and all(isinstance(item, list) and item for item in value):
        named = {item[0]: item[1] if item[2:] in ([], [None]) else item[1:] for item in value}
        return {f"{key} (their order)": list(named), **_flat(named, key)}
    return {key: value}


def _told(values: Mapping[str, Any], key: str) -> str:
    if values.get(key) is None:
        return "none"
    return re.sub(r"\b[0-9a-f]{64}\b", lambda digest: digest[0][:12], str(values[key]))


def read(folder: Path) -> Manifest | None:
    """The manifest of a stage's folder; None when there is none that can be read (then the stage runs)."""
    try:
        return Manifest(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(folder: Path, manifest: Manifest) -> None:
    write_json(folder / FILE, dataclasses.asdict(manifest))


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Whole or not at all; in UTF-8."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def digests(output: Path, paths: Mapping[str, str] | list[str]) -> dict[str, str | None]:
    """Path relative to `output` -> SHA-256, or None where there is no such file."""
    return {path: digest_file(output / path) if (output / path).is_file() else None for path in paths}
