"""What is known of one trial: the row of every table, file and plot of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["done", "stopped", "failed", "running", "waiting"]
"""done: trained to the end; stopped: by the scheduler, before that; failed: after all its retries."""


@dataclass(frozen=True)
class TrialRow:
    name: str
    """trial-0003"""
    status: Status
    values: dict[str, Any]
    """What was searched: name in the configuration -> value."""
    step: int = 0
    """Steps of the target that the score belongs to."""
    psnr_y: float | None = None
    """Of the last validation, in dB on the held-out photographs; None before the first."""
    params: int | None = None
    """Parameters of the target's network."""
    latency_ms: float | None = None
    """Of the target's network, where the sweep asks for it."""
    seconds: float = 0.0
    """Time that the trial ran, over all its starts."""
    starts: int = 1
    aggregator: str = ""
    """Name of the trained aggregator below OUTPUT/aggregators."""
    aggregator_trained: bool = False
    """Whether this trial trained it; False: it took one that another trial had trained."""
    rates: list[float] = field(default_factory=list)
    """With pbt: the learning rates that the weights of this trial were trained with, one for each part."""
    error: str = ""
    """Why it failed."""
