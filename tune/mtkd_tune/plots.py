"""What mattered, drawn by Optuna's own plots: importance of what was searched, and parallel coordinates.

Stopped trials count with their last score, as Ray Tune's `OptunaSearch` tells them to Optuna (COMPLETE, not PRUNED):
the pictures show what the search itself learned from. Without them, early stopping would leave a few good trials, in
which nothing bad is left to see. Their scores come from fewer steps, which is why the axis says "last validation".
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from mtkd_tune.rows import TrialRow

IMPORTANCE, PARALLEL = "importance.png", "parallel_coordinates.png"
SCORE = "PSNR-Y [dB], last validation"
TOP_SHARE = 0.25
"""PED-ANOVA asks what tells this best part of the trials from all: Optuna's tenth would be one or two of a sweep."""


def scored(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Trials that the plots show, by name: done and stopped ones with a finite score."""
    ended = [row for row in rows if row.status in ("done", "stopped") and row.psnr_y is not None]
    return sorted((row for row in ended if math.isfinite(row.psnr_y or 0.0)), key=lambda row: row.name)


def why_not(rows: Sequence[TrialRow], distributions: Mapping[str, BaseDistribution]) -> str | None:
    """Why there is nothing to draw; None where there is."""
    shown = scored(rows)
    left_out = f"{IMPORTANCE} and {PARALLEL} are left out:"
    if len(shown) < 2:
        return f"{left_out} they need two trials with a score, and there {'is one' if shown else 'is none'}."
    if len({row.psnr_y for row in shown}) == 1:
        return f"{left_out} all {len(shown)} trials have the same score."
    if not any(len({repr(row.values.get(name)) for row in shown}) > 1 for name in distributions):
        return f"{left_out} all {len(shown)} trials have the same values."
    return None


def study_of(rows: Sequence[TrialRow], distributions: Mapping[str, BaseDistribution]) -> optuna.Study:
    """A study of one objective, PSNR-Y, to be maximised. Choices that are no numbers or words stand in it as text."""
    study = optuna.create_study(direction="maximize")
    plain = {name: _plain(distribution) for name, distribution in distributions.items()}
    for row in scored(rows):
        of_row = {name: plain[name] for name in plain if name in row.values}
        study.add_trial(
            optuna.trial.create_trial(
                value=row.psnr_y,
                params={name: turn(row.values[name]) for name, (_, turn) in of_row.items()},
                distributions={name: distribution for name, (distribution, _) in of_row.items()},
            )
        )
    return study


def importances(study: optuna.Study) -> dict[str, float]:
    """Name -> share of importance, all together 1. By PED-ANOVA, which asks what sets the best quarter apart."""
    return optuna.importance.get_param_importances(study, evaluator=_evaluator())


def draw(rows: Sequence[TrialRow], distributions: Mapping[str, BaseDistribution], folder: Path) -> list[Path]:
    """Writes both PNGs into `folder`; ask `why_not` first."""
    import matplotlib

    # Optuna draws with pyplot, which would want a display where there is one.
    matplotlib.use("Agg")
    study = study_of(rows, distributions)
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Optuna calls these plots experimental, and chooses a style for the whole process.
        warnings.simplefilter("ignore")
        return [_importance(study, folder / IMPORTANCE), _parallel(study, folder / PARALLEL)]


def _importance(study: optuna.Study, path: Path) -> Path:
    from optuna.visualization.matplotlib import plot_param_importances

    axes = plot_param_importances(study, evaluator=_evaluator(), target_name="PSNR-Y")
    axes.set_title(f"What sets the best {TOP_SHARE:.0%} of {len(study.trials)} trials apart", loc="left", fontsize=11)
    axes.set_xlabel("share of importance for PSNR-Y (PED-ANOVA)")
    axes.set_ylabel("")
    axes.get_legend().remove()
    for bar in axes.patches:
        bar.set_facecolor("#1d6996")
    return _save(axes, path, (7.5, 1.6 + 0.45 * len(axes.get_yticks())))


def _parallel(study: optuna.Study, path: Path) -> Path:
    from matplotlib.collections import LineCollection
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    axes = plot_parallel_coordinate(study, target_name=SCORE)
    axes.set_title(f"{len(study.trials)} trials", loc="left", fontsize=11)
    # The whole names: Optuna cuts them after 20 characters.
    names = sorted({name for trial in study.trials for name in trial.params})
    axes.set_xticks(range(len(names) + 1), [SCORE, *names], rotation=20, ha="right", rotation_mode="anchor")
    axes.ticklabel_format(axis="y", useOffset=False)
    for lines in axes.collections:
        if isinstance(lines, LineCollection):
            # Optuna's blues begin at white.
            lines.set_cmap("viridis_r")
            lines.set_linewidth(1.8)
    return _save(axes, path, (3.0 + 1.7 * len(names), 5.0))


def _save(axes: Any, path: Path, inches: tuple[float, float]) -> Path:
    from matplotlib import pyplot

    figure = axes.get_figure()
    figure.set_size_inches(inches)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    return path


def _evaluator() -> optuna.importance.PedAnovaImportanceEvaluator:
    return optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP_SHARE)


def _plain(distribution: BaseDistribution) -> tuple[BaseDistribution, Callable[[Any], Any]]:
    """A distribution that Optuna can draw, and how a value of it is told there."""
    if isinstance(distribution, CategoricalDistribution) and not all(
        isinstance(choice, bool | int | float | str) for choice in distribution.choices
    ):
        return CategoricalDistribution(list(dict.fromkeys(map(str, distribution.choices)))), str
    return distribution, lambda value: value
