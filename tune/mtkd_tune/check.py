"""Refuses a sweep that makes no sense, before anything starts, naming key, value, what is expected and the remedy."""

from __future__ import annotations

import math

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config
from mtkd_dist.models import aggregator_path
from mtkd_dist.stages.distil_method import needs_aggregator
from mtkd_tune.search import grace_steps
from mtkd_tune.space import Space
from mtkd_tune.tree import SweepConfig

_NETWORK = {"distil": "student", "aggregate": "aggregator"}
"""Target -> key of the network that it trains."""


def check_sweep(sweep: SweepConfig, base: Config, space: Space) -> None:
    """Errors: ConfigError for the first thing that makes no sense. `base`: what all trials share."""
    _check_numbers(sweep)
    _check_target(sweep, base, space)
    _check_objectives(sweep, space)
    if sweep.scheduler == "asha":
        _check_asha(sweep, base)
    if sweep.scheduler == "pbt":
        _check_pbt(sweep, base, space)


def _require(fine: bool, key: str, value: object, expected: str) -> None:
    if not fine:
        raise ConfigError(f"{key}: {value} is not possible; expected {expected}.")


def _check_numbers(sweep: SweepConfig) -> None:
    trial, gpus = sweep.trial, sweep.trial.gpus
    _require(sweep.num_samples >= 1, "num_samples", sweep.num_samples, "at least 1")
    _require(0 <= sweep.seed < 2**32, "seed", sweep.seed, "a number from 0 to below 2^32")
    _require(0 < trial.cpus < math.inf, "trial.cpus", trial.cpus, "a number above 0")
    _require(
        gpus is None or 0 <= gpus <= 1, "trial.gpus", gpus, "from 0 to 1: a trial trains on one GPU or a part of it"
    )
    _require(trial.retries >= 0, "trial.retries", trial.retries, "0 or more")
    _require(trial.concurrent is None or trial.concurrent >= 1, "trial.concurrent", trial.concurrent, "at least 1")
    _require((sweep.num_gpus or 0) >= 0, "num_gpus", sweep.num_gpus, "0 or more")
    _require(sweep.teacher_gpus is None or sweep.teacher_gpus >= 1, "teacher_gpus", sweep.teacher_gpus, "at least 1")
    _require(sweep.teacher_workers >= 1, "teacher_workers", sweep.teacher_workers, "at least 1")
    _require(
        sweep.num_gpus is None or (gpus or 0) <= sweep.num_gpus,
        "trial.gpus",
        gpus,
        f"at most num_gpus ({sweep.num_gpus})",
    )


def _check_target(sweep: SweepConfig, base: Config, space: Space) -> None:
    target, training = sweep.target, getattr(base, sweep.target)
    _require(
        not base.more_students,
        "launch.more_students",
        base.more_students,
        "none: a trial trains one student, and which settings are best is asked of that one; sweep each by itself",
    )
    if target == "aggregate":
        _require(
            needs_aggregator(base),
            "target",
            target,
            f"distil: the method {base.method} has no aggregator",
        )
        _require(
            aggregator_path(base.aggregator) is None,
            "target",
            target,
            f"distil: launch.aggregator is a file ({base.aggregator}), so none is trained",
        )
        for domain in space:
            _require(
                domain.name.partition(".")[0] in ("aggregate", "aggregator"),
                "search",
                domain.name,
                "names of aggregator and aggregate, because no student is trained with target: aggregate",
            )
    _require(
        f"{target}.steps" not in space,
        "search",
        f"{target}.steps",
        f"other names: trials are compared after the same steps (launch: {{{target}: {{steps: ...}}}})",
    )
    for rate in (f"{target}.learning_rate", f"{target}.halve_at"):
        _require(
            not training.rates or rate not in space,
            "search",
            rate,
            f"other names: launch.{target}.rates says which learning rate each part of the training has",
        )
    _require(
        training.validate_every >= 1,
        f"launch.{target}.validate_every",
        training.validate_every,
        "at least 1: validations are the score of a trial",
    )
    _require(
        base.images.held_out > 0 or bool(base.images.held_out_names),
        "launch.images.held_out",
        base.images.held_out,
        "a share above 0, or held_out_names: trials are scored on photographs that are put aside",
    )


def _check_objectives(sweep: SweepConfig, space: Space) -> None:
    asked = sweep.objectives
    _require("psnr_y" in asked, "objectives", asked, "psnr_y among them: without it the smallest network is the best")
    _require(len(set(asked)) == len(asked), "objectives", asked, "each of them once")
    if len(asked) == 1:
        return
    _require(
        sweep.scheduler == "none",
        "scheduler",
        sweep.scheduler,
        f"none, because it would judge trials by psnr_y alone, and objectives are {asked}",
    )
    network = _NETWORK[sweep.target]
    _require(
        any(name == network or name.startswith(f"{network}.") for name in (domain.name for domain in space)),
        "objectives",
        asked,
        f"psnr_y alone, or a search of {network} or its options: now all trials have a {network} of the same size",
    )


def _check_asha(sweep: SweepConfig, base: Config) -> None:
    asha, training = sweep.asha, getattr(base, sweep.target)
    _require(asha.reduction_factor >= 2, "asha.reduction_factor", asha.reduction_factor, "at least 2")
    _require(
        0 <= asha.grace_steps < training.steps,
        "asha.grace_steps",
        asha.grace_steps,
        f"0 (a quarter), or less than {sweep.target}.steps ({training.steps})",
    )
    _require(
        grace_steps(sweep, base) < training.steps,
        f"launch.{sweep.target}.validate_every",
        training.validate_every,
        f"a validation after asha.grace_steps and before the end ({training.steps} steps), or scheduler: none",
    )


def _check_pbt(sweep: SweepConfig, base: Config, space: Space) -> None:
    pbt, target, training = sweep.pbt, sweep.target, getattr(base, sweep.target)
    rate = f"{target}.learning_rate"
    _require(
        rate in space and space[rate].limits is not None,
        "search",
        [domain.name for domain in space],
        f"{rate}: {{loguniform: [low, high]}} among it, or scheduler: asha: with pbt it is what changes",
    )
    for schedule in (f"{target}.halve_at", f"{target}.rates"):
        _require(
            schedule not in space,
            "search",
            schedule,
            "other names: with pbt each part of the training has a learning rate of its own",
        )
    _require(
        not training.rates,
        f"launch.{target}.rates",
        training.rates,
        f"none, because it would take the place of {rate}, which pbt changes",
    )
    _require(pbt.population >= 2, "pbt.population", pbt.population, "at least 2")
    _require(
        pbt.parts >= 2 and training.steps % pbt.parts == 0,
        "pbt.parts",
        pbt.parts,
        f"2 or more that divide {target}.steps ({training.steps})",
    )
    _require(
        bool(pbt.factors) and all(0 < factor < math.inf for factor in pbt.factors),
        "pbt.factors",
        pbt.factors,
        "numbers above 0",
    )
    concurrent = sweep.trial.concurrent
    _require(
        concurrent is None or concurrent >= pbt.population,
        "trial.concurrent",
        concurrent,
        f"none, or at least pbt.population ({pbt.population}): trials that wait for others to end cannot copy them",
    )
