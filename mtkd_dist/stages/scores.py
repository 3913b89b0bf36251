"""From the scores of single photographs to the rows of scores.json, and the same of the spectra of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtkd_dist.pools.evaluate import Scored

Row = dict[str, Any]
"""`model`, `role`, `set`, `scale`, `psnr_y`, `ssim_y`, other metrics that were asked for, `params`."""


class About(NamedTuple):
    """What a row says of its model beside the scores."""

    role: str
    params: int
    """Weights that the model needs for its image; those of its teachers count."""


def mean_rows(scored: Sequence[Scored], about: Mapping[str, About]) -> list[Row]:
    """One row for each model, set and scale: means over the photographs of the set, in the order of `scored`.

    PSNR in dB is rounded to 4 digits, what lies around 0 to 1 to 5.
    """
    groups: dict[tuple[str, int], list[Scored]] = {}
    for photo in scored:
        groups.setdefault((photo.set, photo.scale), []).append(photo)
    rows: list[Row] = []
    for (name, scale), photos in groups.items():
        for model, metrics in photos[0].scores.items():
            means = {
                metric: round(float(np.mean([photo.scores[model][metric] for photo in photos])), digits_of(metric))
                for metric in metrics
            }
            row = {"model": model, "role": about[model].role, "set": name, "scale": scale}
            rows.append(row | means | {"params": about[model].params})
    return rows


def band_rows(scored: Sequence[Scored]) -> list[Row]:
    """One row for each model, set and scale: `model`, `set`, `scale`, and `bands`, means over the photographs."""
    groups: dict[tuple[str, int, str], list[Mapping[str, float]]] = {}
    for photo in scored:
        for model, bands in photo.bands.items():
            groups.setdefault((photo.set, photo.scale, model), []).append(bands)
    return [
        {
            "model": model,
            "set": name,
            "scale": scale,
            "bands": {band: round(float(np.mean([one[band] for one in of])), 5) for band in of[0]},
        }
        for (name, scale, model), of in groups.items()
    ]


def digits_of(metric: str) -> int:
    return 4 if metric.startswith("psnr") else 5
