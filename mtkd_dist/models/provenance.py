"""With which teachers a file was made, and the refusal of others: with them it would be silently wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mtkd_dist.models.weights import read_metadata


def teachers_text(teachers: Mapping[str, str]) -> str:
    """Name -> SHA-256 of the file, in order, as the metadata entry `teachers` has it."""
    return json.dumps(dict(teachers))


def check_student(path: Path, teachers: Mapping[str, str], scale: int) -> None:
    """Refuse a student that learned from others than `teachers`. Errors: ValueError as `check_made_with`."""
    check_made_with(path, "student", teachers, scale)


def check_made_with(path: Path, kind: str, teachers: Mapping[str, str], scale: int) -> None:
    """Refuse a file that was made for another scale or with other teachers.

    Args:
        path: a file of ours with the metadata `network`, `scale` and `teachers`.
        kind: "aggregator" or "student".
        teachers: name -> SHA-256 of the file of those that it will be used with, in order.

    Errors: ValueError that names the file, what it says, what was expected and what mends it.
    """
    made_for, made_with = _read(path, kind)
    anew = f"or make a new {kind} with these"
    if made_for != scale:
        raise ValueError(
            f"{path}: this {kind} was made for x{made_for}, expected x{scale}; set scale {made_for}, {anew}"
        )
    names, expected = list(made_with), list(teachers)
    if names != expected:
        what = "teachers in the order" if sorted(names) == sorted(expected) else "the teachers"
        raise ValueError(
            f"{path}: this {kind} was made with {what} {', '.join(names) or 'none'}, expected "
            f"{', '.join(expected) or 'none'}; give those (FILE:name=... names a file), {anew}"
        )
    for name, digest in teachers.items():
        if made_with[name] != digest:
            raise ValueError(
                f"{path}: this {kind} was made with another file of the teacher {name!r}: SHA-256 "
                f"{made_with[name][:12]}, expected {digest[:12]} of the file that is given now; give that file, {anew}"
            )


def _read(path: Path, kind: str) -> tuple[int, dict[str, str]]:
    """(scale, teachers) of the metadata."""
    metadata = read_metadata(path)
    try:
        scale, teachers = int(metadata["scale"]), json.loads(metadata["teachers"])
        if "network" in metadata and isinstance(teachers, dict):
            return scale, teachers
    except (KeyError, ValueError):
        pass
    raise ValueError(
        f"{path} is no {kind} of mtkd-dist: its metadata {dict(sorted(metadata.items()))} lack one of network, scale "
        f"and teachers (names with digests); give the file {kind}.safetensors of a run"
    )
