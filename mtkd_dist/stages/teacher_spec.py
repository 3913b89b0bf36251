"""One entry of `teachers`: a weight file, or a network to train first."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mtkd_dist.config.load import nearest
from mtkd_dist.models import is_network_name, parse_network
from mtkd_dist.pools.evaluate import AGGREGATE, BICUBIC, MEAN, STUDENT

RESERVED = (BICUBIC, MEAN, AGGREGATE, STUDENT)
"""Rows of the scores that are no teachers."""
FILE_OPTIONS = ("name", "input_range")


@dataclass(frozen=True)
class TeacherSpec:
    name: str
    """Names the teacher in scores, folders and checkpoints."""
    path: Path | None = None
    """A given weight file, or None for a network that is trained first."""
    network: str | None = None
    """Canonical text of the network to train, or None for a file."""
    input_range: float | None = None
    """Declared range of a file's input values; None: what its architecture says."""


def parse_teacher(text: str) -> TeacherSpec:
    """`FILE[:name=X,input_range=255]` or `NETWORK[:name=X,width=64,...]`.

    Errors: ValueError naming the entry, the value and the remedy. Whether the file exists is not asked here.
    """
    head, options = _split(text)
    name = options.pop("name", None)
    if is_network_name(text):
        sizes = ",".join(f"{key}={value}" for key, value in options.items())
        spec = parse_network(f"{head}:{sizes}" if sizes else head)
        return TeacherSpec(name or spec.architecture, network=spec.text)
    for key in options:
        if key != "input_range":
            raise ValueError(
                f"{text!r}: unknown option {key!r} of a teacher file; allowed: {', '.join(FILE_OPTIONS)}."
                f"{nearest(key, FILE_OPTIONS)}"
            )
    return TeacherSpec(name or Path(head).stem, path=Path(head), input_range=_range(text, options.get("input_range")))


def parse_teachers(texts: list[str]) -> list[TeacherSpec]:
    """All entries; errors also when two share a name."""
    teachers = [parse_teacher(text) for text in texts]
    for i, teacher in enumerate(teachers):
        if teacher.name in RESERVED or not re.fullmatch(r"\w[\w.+-]*", teacher.name):
            raise ValueError(
                f"a teacher cannot be called {teacher.name!r}: names are of letters, digits and _.+- and not "
                f"{', '.join(RESERVED)}; give it another one: {texts[i]}{',' if '=' in texts[i] else ':'}name=OTHER"
            )
        if teacher.name in [t.name for t in teachers[:i]]:
            raise ValueError(f"two teachers are called {teacher.name!r}; name one of them: {texts[i]}:name=OTHER")
    return teachers


def _split(text: str) -> tuple[str, dict[str, str]]:
    head, colon, tail = text.rpartition(":")
    if not colon or "=" not in tail:
        return text, {}
    options: dict[str, str] = {}
    for part in tail.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: expected key=value, got {part!r}")
        options[key] = value
    return head, options


def _range(text: str, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{text!r}: input_range={value} is not a number; usually 1 or 255") from None
    if not 0 < number < float("inf"):
        raise ValueError(f"{text!r}: input_range={value} must be above 0; usually 1 or 255")
    return number
