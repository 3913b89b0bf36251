from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import SearchGenerator

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import Config
from mtkd_tune.check import check_sweep
from mtkd_tune.search import PATIENCE, REFUSED, FeasibleSearch, grace_steps, refused, scheduler, searcher
from mtkd_tune.space import Space, why_not
from mtkd_tune.tree import AshaConfig, PbtConfig, SweepConfig, TrialConfig

BASE = PRESETS["demo-sweep"]()
NETWORKS = {"aggregator.width": {"choice": [24, 32]}, "aggregator.heads": {"choice": [3, 4]}}
RATE = {"distil.learning_rate": {"loguniform": [1e-4, 1e-2]}}


class FakeTrial:
    def __init__(self, name: str) -> None:
        self.trial_id = name

    def __str__(self) -> str:
        return self.trial_id


def nothing_before(trial: str) -> list[dict[str, Any]]:
    return []


def space_of(sweep: SweepConfig) -> Space:
    return Space.parse(sweep.search, BASE)


def search_of(sweep: SweepConfig, folder: Path, base: Config = BASE) -> FeasibleSearch:
    return searcher(space_of(sweep), sweep, base, folder / REFUSED)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_combinations_that_cannot_work_are_asked_for_again_and_counted_with_their_reason(
    sampler: Any, tmp_path: Path
) -> None:
    sweep = SweepConfig(search=NETWORKS, sampler=sampler)
    found, space = search_of(sweep, tmp_path), space_of(sweep)
    for number in range(20):
        values = found.suggest(f"t{number}")
        assert isinstance(values, dict)
        assert why_not(space.config(BASE, values)) is None
        found.on_trial_complete(f"t{number}", {"psnr_y": 20 + values["aggregator.width"]})
    assert found.refused.total() > 0
    assert all("width=32 must be a multiple of heads=3" in why for why in found.refused)
    assert refused(tmp_path) == found.refused


def test_a_search_that_finds_nothing_that_works_ends_with_the_reason(tmp_path: Path) -> None:
    sweep = SweepConfig(search={"distil.batch_size": {"choice": [8, 12]}})
    found = search_of(sweep, tmp_path, dataclasses.replace(BASE, student="edsr-baseline:width=0"))
    with pytest.raises(ConfigError, match=f"{PATIENCE} combinations in a row cannot work, {PATIENCE} of them.*width=0"):
        found.suggest("t")


def test_the_same_seed_draws_the_same_values_and_another_seed_others(tmp_path: Path) -> None:
    def drawn(seed: int) -> list[Any]:
        found = search_of(SweepConfig(seed=seed), tmp_path)
        return [found.suggest(str(number)) for number in range(5)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("result", [{"psnr_y": math.nan}, {"psnr_y": -math.inf}, {}, None])
@pytest.mark.parametrize("objectives", [["psnr_y"], ["psnr_y", "params"]])
def test_a_trial_without_a_usable_score_counts_as_failed_and_the_search_goes_on(
    objectives: Any, result: Any, tmp_path: Path
) -> None:
    found = search_of(SweepConfig(search=NETWORKS, objectives=objectives), tmp_path)
    for number in range(3):
        assert found.suggest(f"bad{number}")
        found.on_trial_complete(f"bad{number}", result)
    for number in range(12):
        assert found.suggest(f"good{number}")
        found.on_trial_complete(f"good{number}", {"psnr_y": 20.0 + number, "params": 1000})
    states = [trial.state.name for trial in found.searcher._ot_study.trials]
    assert states.count("COMPLETE") == 12
    assert states.count("RUNNING") == 0


def test_objectives_are_maximised_psnr_and_minimised_size_and_latency(tmp_path: Path) -> None:
    found = search_of(SweepConfig(search=NETWORKS, objectives=["psnr_y", "params", "latency_ms"]), tmp_path)
    assert (found.metric, found.mode) == (["psnr_y", "params", "latency_ms"], ["max", "min", "min"])


def test_a_search_that_is_saved_and_restored_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    sweep = SweepConfig(search=NETWORKS | RATE, num_samples=6)

    def begun() -> SearchGenerator:
        return SearchGenerator(search_of(sweep, tmp_path))

    def goes_on(found: Any) -> list[Any]:
        found.on_trial_complete("waits", {"psnr_y": 30.0})
        values = []
        for number in range(6):
            values.append(found.suggest(f"later{number}"))
            found.on_trial_complete(f"later{number}", {"psnr_y": 25.0 + number})
        return [*values, found.refused]

    first = begun()
    for number in range(4):
        first.searcher.suggest(f"t{number}")
        first.searcher.on_trial_complete(f"t{number}", {"psnr_y": 20.0 + number})
    first.searcher.suggest("waits")
    first.save_to_dir(str(tmp_path), "session")
    second = begun()
    second.restore_from_dir(str(tmp_path))
    assert goes_on(second.searcher) == goes_on(first.searcher)


def test_asha_lets_every_trial_reach_its_grace_and_then_stops_the_worse_ones() -> None:
    sweep = SweepConfig()
    asha = scheduler(space_of(sweep), sweep, BASE, nothing_before)
    good, bad = FakeTrial("good"), FakeTrial("bad")
    asha.on_trial_add(None, good)
    asha.on_trial_add(None, bad)
    grace, every = grace_steps(sweep, BASE), BASE.distil.validate_every
    decisions = []
    for step in range(every, grace + 1, every):
        assert asha.on_trial_result(None, good, {"step": step, "psnr_y": 30.0}) == TrialScheduler.CONTINUE
        decisions.append(asha.on_trial_result(None, bad, {"step": step, "psnr_y": 20.0}))
    assert decisions == [TrialScheduler.CONTINUE] * (len(decisions) - 1) + [TrialScheduler.STOP]
    # It ends by itself, with its files written.
    assert asha.on_trial_result(None, good, {"step": BASE.distil.steps, "psnr_y": 10.0}) == TrialScheduler.CONTINUE


@given(st.integers(1, 1000), st.integers(1, 200), st.integers(0, 1000))
def test_grace_ends_at_the_first_validation_from_where_it_was_asked_for(steps: int, every: int, asked: int) -> None:
    base = dataclasses.replace(BASE, distil=dataclasses.replace(BASE.distil, steps=steps, validate_every=every))
    grace = grace_steps(SweepConfig(asha=AshaConfig(grace_steps=asked)), base)
    assert grace % every == 0
    assert grace >= max(asked or steps / 4, every) > grace - every


def test_asha_of_a_sweep_that_goes_on_compares_with_trials_from_before() -> None:
    sweep = SweepConfig()
    grace = grace_steps(sweep, BASE)
    before = {"good": [{"step": grace, "psnr_y": 30.0}], "better": [{"step": grace, "psnr_y": 31.0}]}
    asha = scheduler(space_of(sweep), sweep, BASE, lambda name: before.get(name, []))
    trials = {name: FakeTrial(name) for name in ("good", "better", "new")}
    for trial in trials.values():
        asha.on_trial_add(None, trial)
    new = trials["new"]
    assert asha.on_trial_result(None, new, {"step": grace, "psnr_y": 20.0}) == TrialScheduler.STOP


def test_a_population_that_goes_on_knows_its_scores_from_before(tmp_path: Path) -> None:
    sweep = SweepConfig(search=RATE, scheduler="pbt")
    trial = Trial("trial", trial_id="a", stub=True, config={"distil.learning_rate": 1e-3})
    pbt = scheduler(space_of(sweep), sweep, BASE, lambda name: [{"step": 120, "psnr_y": 30.0}])
    pbt.on_trial_add(Controller([trial], search_of(sweep, tmp_path)), trial)
    assert pbt._trial_state[trial].last_score == 30.0


def test_no_scheduler_is_tunes_own_that_stops_nothing() -> None:
    sweep = SweepConfig(scheduler="none")
    assert type(scheduler(space_of(sweep), sweep, BASE, nothing_before)) is FIFOScheduler


@given(st.floats(1e-6, 1e-1))
def test_a_changed_rate_stays_within_the_searched_range_and_nothing_else_changes(rate: float) -> None:
    before = {"loss.levels": 2, "distil.learning_rate": rate}
    pbt = scheduler(Space.parse(RATE, BASE), SweepConfig(search=RATE, scheduler="pbt"), BASE, nothing_before)
    after = pbt.within_limits(before)
    assert after["loss.levels"] == 2
    assert 1e-4 <= after["distil.learning_rate"] <= 1e-2
    assert after["distil.learning_rate"] in (rate, 1e-4, 1e-2)
    assert before["distil.learning_rate"] == rate


class Controller:
    """What Tune's controller is to a scheduler."""

    def __init__(self, trials: list[Trial], search: FeasibleSearch) -> None:
        self._trials, self.search_alg = trials, SearchGenerator(search)
        self.saved: list[Trial] = []

    def get_trials(self) -> list[Trial]:
        return self._trials

    def _schedule_trial_save(self, trial: Trial, result: Any) -> str:
        self.saved.append(trial)
        return f"checkpoint of {trial.trial_id}"

    def pause_trial(self, trial: Trial, should_checkpoint: bool) -> None:
        trial.set_status(Trial.PAUSED)


def test_pbt_copies_the_better_trial_where_a_part_ends_and_neither_between_nor_at_the_end(tmp_path: Path) -> None:
    sweep = SweepConfig(search=RATE, scheduler="pbt", pbt=PbtConfig(parts=5, factors=[2.0]))
    pbt = scheduler(space_of(sweep), sweep, BASE, nothing_before)
    trials = [Trial("trial", trial_id=name, stub=True, config={"distil.learning_rate": 1e-3}) for name in "ab"]
    controller, (good, bad) = Controller(trials, search_of(sweep, tmp_path)), trials
    for trial in trials:
        trial.set_status(Trial.RUNNING)
        pbt.on_trial_add(controller, trial)

    def report(step: int) -> list[str]:
        return [
            pbt.on_trial_result(controller, trial, {"step": step, "psnr_y": psnr, "training_iteration": 1})
            for trial, psnr in ((good, 30.0), (bad, 20.0))
        ]

    part = BASE.distil.steps // 5
    assert report(part // 2) == report(part + 1) == report(BASE.distil.steps) == [TrialScheduler.CONTINUE] * 2
    assert pbt.on_trial_result(controller, bad, {"done": True}) == TrialScheduler.CONTINUE
    assert controller.saved == []
    report(part)  # only now the scores of both are known
    assert report(2 * part) == [TrialScheduler.CONTINUE, TrialScheduler.NOOP]
    assert controller.saved == [good]
    assert bad.config == {"distil.learning_rate": 2e-3}
    assert good.config == {"distil.learning_rate": 1e-3}


def test_pbt_never_leaves_the_range_that_is_searched() -> None:
    sweep = SweepConfig(search=RATE, scheduler="pbt", pbt=PbtConfig(factors=[1000.0]))
    pbt = scheduler(space_of(sweep), sweep, BASE, nothing_before)
    donor = Trial("trial", stub=True, config={"loss.levels": 2, "distil.learning_rate": 1e-3})
    assert pbt._get_new_config(donor, donor)[0] == {"loss.levels": 2, "distil.learning_rate": 1e-2}


def sweep_of(**changes: Any) -> SweepConfig:
    return dataclasses.replace(SweepConfig(), **changes)


@pytest.mark.parametrize("sweep", [SweepConfig(), sweep_of(search=RATE, scheduler="pbt")])
def test_sweeps_that_make_sense_pass(sweep: SweepConfig) -> None:
    check_sweep(sweep, BASE, space_of(sweep))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_samples": 0}, ["num_samples", "0", "at least 1"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"trial": TrialConfig(gpus=1.5)}, ["trial.gpus", "1.5", "one GPU or a part"]),
        ({"trial": TrialConfig(gpus=0.5), "num_gpus": 0}, ["trial.gpus", "0.5", "num_gpus (0)"]),
        ({"teacher_gpus": 0}, ["teacher_gpus", "0", "at least 1"]),
        ({"trial": TrialConfig(cpus=0)}, ["trial.cpus", "0"]),
        ({"objectives": ["params"]}, ["objectives", "psnr_y among them"]),
        ({"objectives": ["psnr_y", "psnr_y"]}, ["objectives", "once"]),
        ({"objectives": ["psnr_y", "params"]}, ["scheduler", "asha", "none", "psnr_y alone"]),
        ({"objectives": ["psnr_y", "params"], "scheduler": "none"}, ["objectives", "student", "the same size"]),
        ({"target": "aggregate"}, ["search", "loss.levels", "target: aggregate"]),
        ({"search": {"distil.steps": {"choice": [100, 200]}}}, ["distil.steps", "same steps"]),
        ({"asha": AshaConfig(grace_steps=600)}, ["asha.grace_steps", "600", "less than distil.steps (600)"]),
        ({"asha": AshaConfig(grace_steps=575)}, ["validate_every", "50", "scheduler: none"]),
        ({"asha": AshaConfig(reduction_factor=1)}, ["asha.reduction_factor", "1", "at least 2"]),
        (
            {"search": {"loss.levels": {"choice": [1, 2]}}, "scheduler": "pbt"},
            ["search", "loss.levels", "distil.learning_rate: {loguniform", "pbt"],
        ),
        (
            {"search": {"distil.learning_rate": {"choice": [1e-3, 2e-3]}}, "scheduler": "pbt"},
            ["search", "distil.learning_rate: {loguniform"],
        ),
        (
            {"search": RATE | {"distil.halve_at": {"choice": [[0.5], []]}}, "scheduler": "pbt"},
            ["distil.halve_at", "a learning rate of its own"],
        ),
        ({"scheduler": "pbt", "pbt": PbtConfig(population=1)}, ["pbt.population", "1", "at least 2"]),
        ({"scheduler": "pbt", "pbt": PbtConfig(parts=7)}, ["pbt.parts", "7", "divide distil.steps (600)"]),
        ({"scheduler": "pbt", "pbt": PbtConfig(factors=[0.5, 0])}, ["pbt.factors", "above 0"]),
        (
            {"scheduler": "pbt", "trial": TrialConfig(concurrent=2)},
            ["trial.concurrent", "2", "pbt.population (4)"],
        ),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_with_the_remedy(changes: dict[str, Any], words: list[str]) -> None:
    sweep = sweep_of(**changes)
    with pytest.raises(ConfigError) as error:
        check_sweep(sweep, BASE, space_of(sweep))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ({"distil": dataclasses.replace(BASE.distil, validate_every=0)}, ["distil.validate_every", "0", "score"]),
        ({"images": dataclasses.replace(BASE.images, held_out=0.0)}, ["images.held_out", "0.0", "put aside"]),
        ({"more_students": ["rlfn"]}, ["launch.more_students", "rlfn", "a trial trains one student"]),
    ],
)
def test_a_launch_whose_trials_could_not_be_scored_is_refused(launch: dict[str, Any], words: list[str]) -> None:
    sweep = SweepConfig()
    with pytest.raises(ConfigError) as error:
        check_sweep(sweep, dataclasses.replace(BASE, **launch), space_of(sweep))
    for word in words:
        assert word in str(error.value)


def test_a_sweep_over_aggregators_alone_cannot_have_one_that_is_given() -> None:
    sweep = sweep_of(target="aggregate", search={"loss.levels": {"choice": [1]}})
    with pytest.raises(ConfigError, match=r"target: aggregate.*a\.safetensors"):
        check_sweep(sweep, dataclasses.replace(BASE, aggregator="a.safetensors"), space_of(sweep))


def test_a_method_without_an_aggregator_is_no_sweep_of_aggregators() -> None:
    sweep = SweepConfig(target="aggregate", search={"aggregate.steps": {"choice": [100, 200]}})
    with pytest.raises(ConfigError, match=r"target: aggregate .*expected distil: the method kd has no aggregator"):
        check_sweep(sweep, dataclasses.replace(BASE, method="kd"), space_of(sweep))
