"""How a sweep chooses values and when it stops a trial: Optuna's samplers and Tune's schedulers, set up for it."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config
from mtkd_dist.stages.manifest import write_json
from mtkd_tune.ranking import HIGHER_IS_BETTER
from mtkd_tune.space import Space, why_not
from mtkd_tune.tree import SweepConfig

STEP, SCORE = "step", "psnr_y"
"""What trials report: the step of a validation and its PSNR-Y in dB."""
ReportsOf = Callable[[str], list[dict[str, Any]]]
"""Name of a trial -> STEP and SCORE of each of its reports so far."""
REFUSED = "refused.json"
"""File of a sweep's folder: why combinations were refused -> how many."""
PATIENCE = 1000
"""Combinations in a row that cannot work, after which the search is given up."""


def searcher(space: Space, sweep: SweepConfig, base: Config, refused: Path) -> FeasibleSearch:
    """What Tune asks for the values of each trial; they come as {name of the configuration: value}.

    `refused`: file of the reasons why combinations were refused, and their numbers. (Tune searches with a copy that
    nobody else gets to see.)

    It knows metric and mode: Tune is not to be given them a second time.
    """
    # Optuna's 10 random trials before the first that learns from others would be most of a small sweep.
    random_trials = max(1, min(10, sweep.num_samples // 3))
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=sweep.seed)
    if sweep.sampler == "tpe":
        sampler = optuna.samplers.TPESampler(multivariate=True, seed=sweep.seed, n_startup_trials=random_trials)
    metric: Any = list(sweep.objectives)
    mode: Any = ["max" if HIGHER_IS_BETTER[objective] else "min" for objective in sweep.objectives]
    if len(metric) == 1:
        (metric,), (mode,) = metric, mode
    inner = OptunaSearch(space.distributions(), metric, mode, sampler=sampler)
    return FeasibleSearch(inner, space, base, random_trials, refused)


def refused(folder: Path) -> Counter[str]:
    """Why the search of the sweep in `folder` refused combinations -> how many."""
    try:
        return Counter(json.loads((folder / REFUSED).read_text()))
    except FileNotFoundError:
        return Counter()


class FeasibleSearch(Searcher):
    """Asks another searcher once more where its values cannot work together.

    Once `random_trials` have a score, it tells the other one of these as pruned, which TPE takes for worse than any
    score: one that is not told proposes the same again for ever. Before that as failed, which does not count, or they
    would be what TPE begins with. The other one hears of a trial when it ends; a score that is missing or not finite is
    a failure.
    """

    def __init__(self, inner: Searcher, space: Space, base: Config, random_trials: int, file: Path) -> None:
        super().__init__(metric=inner.metric, mode=inner.mode)
        # Under this name Tune looks for what a searcher wraps, and saves both.
        self.searcher = inner
        self.refused: Counter[str] = Counter()
        """Why combinations were refused -> how many."""
        self._space, self._base, self._random_trials, self._file = space, base, random_trials, file
        self._scored = 0
        """Trials that ended with a score."""
        self._asked: dict[str, str] = {}
        """Trial -> name under which the other searcher knows it."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Errors: ConfigError after `PATIENCE` combinations in a row that cannot work."""
        reasons: Counter[str] = Counter()
        for attempt in range(PATIENCE):
            name = f"{trial_id}-{attempt}"
            drawn = self.searcher.suggest(name)
            if drawn is None or drawn == Searcher.FINISHED:
                return drawn
            values = self._space.values(drawn)
            why = why_not(self._space.config(self._base, values))
            if why is None:
                self._asked[trial_id] = name
                return values
            reasons[why] += 1
            self.refused[why] += 1
            write_json(self._file, dict(self.refused))
            self.searcher.on_trial_complete(name, error=self._scored < self._random_trials)
        ((why, times),) = reasons.most_common(1)
        raise ConfigError(
            f"search: {PATIENCE} combinations in a row cannot work, {times} of them because of this: {why} Search "
            "values that go together."
        )

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        name = self._asked.pop(trial_id, None)
        if name is None:
            return
        metrics = self.metric if isinstance(self.metric, list) else [self.metric]
        if result is None or not all(math.isfinite(result.get(metric, math.nan)) for metric in metrics):
            result, error = None, True
        self._scored += not error
        self.searcher.on_trial_complete(name, result=result, error=error)

    def get_state(self) -> dict[str, Any]:
        return {"refused": dict(self.refused), "asked": dict(self._asked), "scored": self._scored}

    def set_state(self, state: dict[str, Any]) -> None:
        self.refused, self._asked = Counter(state["refused"]), dict(state["asked"])
        self._scored = state["scored"]

    def save(self, checkpoint_path: str) -> None:
        """The other searcher's state; its own goes by way of `get_state`."""
        self.searcher.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        self.searcher.restore(checkpoint_path)


def scheduler(space: Space, sweep: SweepConfig, base: Config, reports_of: ReportsOf) -> TrialScheduler:
    """What stops trials or lets them go on from others' weights; it knows metric and mode as the searcher does.

    `reports_of`: what trials have reported before the sweep was interrupted, which Tune does not keep for schedulers.
    """
    training = getattr(base, sweep.target)
    if sweep.scheduler == "asha":
        return EarlyStopping(training.steps, grace_steps(sweep, base), sweep.asha.reduction_factor, reports_of)
    if sweep.scheduler == "pbt":
        name = f"{sweep.target}.learning_rate"
        limits = space[name].limits
        assert limits is not None, "check_sweep asks for a range"
        random.seed(sweep.seed)  # Tune draws donors and factors from it
        part_steps = training.steps // sweep.pbt.parts
        return PartwiseTraining(part_steps, training.steps, name, sweep.pbt.factors, limits, reports_of)
    return FIFOScheduler()


def grace_steps(sweep: SweepConfig, base: Config) -> int:
    """Step of the first validation at which ASHA may stop a trial."""
    training = getattr(base, sweep.target)
    asked = sweep.asha.grace_steps or training.steps / 4
    return max(1, math.ceil(asked / training.validate_every)) * training.validate_every


class EarlyStopping(ASHAScheduler):
    """ASHA whose rungs remember, in a sweep that goes on, who reached them before."""

    def __init__(self, steps: int, grace_steps: int, reduction_factor: int, reports_of: ReportsOf) -> None:
        super().__init__(
            time_attr=STEP,
            metric=SCORE,
            mode="max",
            max_t=steps,
            grace_period=grace_steps,
            reduction_factor=reduction_factor,
        )
        self._steps, self._reports_of = steps, reports_of

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, trial, result)
        # Tune's own would end it over its last report, before it has written down what it trained.
        return TrialScheduler.CONTINUE if result.get(STEP, 0) >= self._steps else decision

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for report in self._reports_of(str(trial)):
            # What was decided then has been done.
            self.on_trial_result(tune_controller, trial, report)


class PartwiseTraining(PopulationBasedTraining):
    """Population-based training of one learning rate that compares trials where a part ends, and nowhere else.

    Tune's own begins to count anew in a sweep that is resumed, wherever a trial is then, and copies at the end too,
    where no part is left to train.
    """

    def __init__(
        self,
        part_steps: int,
        steps: int,
        name: str,
        factors: list[float],
        limits: tuple[float, float],
        reports_of: ReportsOf,
    ) -> None:
        super().__init__(
            time_attr=STEP,
            metric=SCORE,
            mode="max",
            perturbation_interval=part_steps,
            hyperparam_mutations={name: tune.uniform(*limits)},
            resample_probability=0.0,
            perturbation_factors=tuple(factors),
            custom_explore_fn=self.within_limits,
            log_config=False,
        )
        self._part_steps, self._steps = part_steps, steps
        self._name, self._limits, self._reports_of = name, limits, reports_of

    def within_limits(self, values: dict[str, Any]) -> dict[str, Any]:
        """`values` of a trial, with the nearest learning rate that may be searched."""
        low, high = self._limits
        return values | {self._name: min(max(values[self._name], low), high)}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        # Tune refuses searchers here, since they would learn of values that a trial no longer has. Ours gives the first
        # values, and all of the population has them before the first trial ends.
        super().on_trial_add(SimpleNamespace(search_alg=None), trial)
        for report in self._reports_of(str(trial)):
            self._save_trial_state(self._trial_state[trial], report[STEP], report, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        step = result.get(STEP)
        if step is None or step % self._part_steps or step >= self._steps:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)
