"""What a page shows of a run: plain data, whose empty parts are left out of the page. A half-done run has many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mtkd_dist.report.history import Past

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """One stage of a run, finished or begun."""

    name: str
    """Of its folder, such as `teachers/edsr`."""
    finished: bool
    steps: int | None = None
    """Of the whole training; None where nothing is trained."""
    seconds: float | None = None
    """Of the start that finished it."""
    past: Past = field(default_factory=Past)
    summary: Mapping[str, Any] = field(default_factory=dict)
    """What its manifest says of its course."""
    more_students: Sequence[str] = ()
    """Names of the students that learn beside the main one."""


class Weights(NamedTuple):
    """A file of weights that the run took or made."""

    name: str
    role: str
    network: str
    params: int | None
    origin: str
    digest: str


@dataclass(frozen=True)
class Facts:
    name: str
    """Of the run's folder."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The configuration tree."""
    settings_text: str = ""
    """The same as YAML."""
    rows: Sequence[Row] = ()
    """Of scores.json."""
    bands: Sequence[Row] = ()
    """Spectra of errors (`mtkd_dist.stages.scores.band_rows`)."""
    details: Sequence[Row] = ()
    """Entries of the index of details (`mtkd_dist.stages.details`)."""
    stages: Sequence[Stage] = ()
    weights: Sequence[Weights] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Group -> name -> text, and `started`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Place in the run's folder -> what lies there."""
