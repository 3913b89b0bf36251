"""Rows of sweeps that tests are built from, made up or drawn."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from mtkd_tune.rows import TrialRow

SPACE: dict[str, BaseDistribution] = {
    "loss.levels": CategoricalDistribution([1, 2, 3]),
    "distil.learning_rate": FloatDistribution(5e-4, 5e-3, log=True),
}


def row(number: int, psnr_y: float | None = 30.0, status: str = "done", **known: Any) -> TrialRow:
    values = {"loss.levels": 1 + number % 3, "distil.learning_rate": 5e-4 * (1 + number % 10)}
    return TrialRow(f"trial-{number:04}", status, **{"values": values, "psnr_y": psnr_y, "step": 30} | known)  # type: ignore[arg-type]


_scores = st.one_of(st.none(), st.just(float("nan")), st.integers(28, 32).map(float))
_statuses = st.sampled_from(["done", "stopped", "failed", "running", "waiting"])


@st.composite
def sweeps(draw: st.DrawFn) -> list[TrialRow]:
    """Up to twelve trials of any status, scores and sizes from so few values that many are equal."""
    return [
        row(
            number,
            draw(_scores),
            draw(_statuses),
            params=draw(st.one_of(st.none(), st.integers(1, 4))),
            latency_ms=draw(st.one_of(st.none(), st.integers(1, 4).map(float))),
        )
        for number in range(draw(st.integers(0, 12)))
    ]
