"""What a stage leaves behind about itself, and the decision whether it has to run again."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
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
