"""What mattered, drawn by Optuna's own plots: importance of what was searched, and parallel coordinates.

Stopped trials count with their last score, as Ray Tune's `OptunaSearch` tells them to Optuna (COMPLETE, not PRUNED):
the pictures show what the search itself learned from. Without them, early stopping would leave a few good trials, in
which nothing bad is left to see. Their scores come from fewer steps, which is why the axis says "last validation".

Importance is fANOVA's share of the scores' variance. In made-up sweeps of 12 trials, in which one value matters most,
it named that value each time; PED-ANOVA, Optuna's default, mostly missed it where it was a choice of two: it compares
the best tenth of the trials with all, and that is one or two.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from mtkd_tune.rows import TrialRow

IMPORTANCE, PARALLEL = "importance.png", "parallel_coordinates.png"
SCORE = "PSNR-Y [dB], last validation"


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
    """A study of one objective, PSNR-Y, to be maximised. A list stands in it as JSON, as where it was drawn from."""
    study = optuna.create_study(direction="maximize")
    for row in scored(rows):
        values = {name: value for name, value in row.values.items() if name in distributions}
        study.add_trial(
            optuna.trial.create_trial(
                value=row.psnr_y,
                params={n: json.dumps(value) if isinstance(value, list) else value for n, value in values.items()},
                distributions={name: distributions[name] for name in values},
            )
        )
    return study


def draw(rows: Sequence[TrialRow], distributions: Mapping[str, BaseDistribution], folder: Path) -> list[Path]:
    """Writes both PNGs into `folder`; ask `why_not` first."""
    import matplotlib

    # Optuna draws with pyplot, which would want a display where there is one.
    matplotlib.use("Agg")
    study = study_of(rows, distributions)
    files = []
    for plot, name in ((_importance, IMPORTANCE), (_parallel, PARALLEL)):
        # Optuna chooses a style for the whole process, and calls these plots experimental.
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            files.append(plot(study, folder / name))
    return files


def _importance(study: optuna.Study, path: Path) -> Path:
    from optuna.visualization.matplotlib import plot_param_importances

    axes = plot_param_importances(study, evaluator=evaluator(), target_name="PSNR-Y")
    axes.set_title(f"What the scores of {len(study.trials)} trials depend on", loc="left", fontsize=11)
    axes.set_xlabel("importance: share of the variance of PSNR-Y (fANOVA)")
    axes.set_ylabel("")
    axes.get_legend().remove()
    for bar in axes.patches:
        bar.set_facecolor("#1d6996")
    return _save(axes, path, (7.5, 1.6 + 0.45 * len(axes.get_yticks())))


def _parallel(study: optuna.Study, path: Path) -> Path:
    from matplotlib.collections import LineCollection
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    axes = plot_parallel_coordinate(study, target_name=SCORE)
    axes.set_title("")
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
    for other in axes.get_figure().axes:
        for label in other.get_yticklabels(which="both") if other is not axes else ():
            # Lines pass behind them.
            label.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})
    return _save(axes, path, (3.0 + 1.7 * len(names), 5.0))


def _save(axes: Any, path: Path, inches: tuple[float, float]) -> Path:
    from matplotlib import pyplot

    figure = axes.get_figure()
    figure.set_size_inches(inches)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
    return path


def evaluator() -> optuna.importance.FanovaImportanceEvaluator:
    """How importance is found; the same every time. See the top of this file."""
    return optuna.importance.FanovaImportanceEvaluator(seed=0)
