from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.tracking.tracker import Tracker
from mtkd_tune import tracking
from mtkd_tune.ledger import Ledger
from mtkd_tune.rows import TrialRow
from mtkd_tune.tracking import TrackTrials, error_text, mark_best, track_files

STEPS = 30
PATIENCE_SECONDS = 300
"""What MLflow has not taken by then is left in the spool, and a new store takes long on a machine that is busy."""


class FakeTrial:
    """What the callback reads of Tune's Trial."""

    def __init__(self, number: int, levels: int = 1):
        self.number = number
        self.config = {"loss.levels": levels}
        self.error_file: str | None = None

    def __str__(self) -> str:
        return f"trial-{self.number:04}"


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# The ledger


def test_a_trial_that_ends_at_its_last_step_is_done_and_before_it_stopped() -> None:
    ledger = Ledger(STEPS)
    for name, step in (("a", 30), ("b", 20)):
        ledger.start(name, {}, 0.0)
        ledger.report(name, {"step": step, "psnr_y": 30.0}, 1.0)
        ledger.end(name, 2.0)
    assert [row.status for row in ledger.rows()] == ["done", "stopped"]


def test_the_time_of_a_trial_is_that_of_all_its_starts() -> None:
    ledger = Ledger(STEPS)
    ledger.start("a", {}, 0.0)
    ledger.crash("a", "boom", 10.0)
    ledger.start("a", {}, 50.0)
    ledger.report("a", {"step": 30, "psnr_y": 30.0}, 55.0)
    row = ledger.end("a", 57.0)
    assert (row.seconds, row.starts, row.error) == (17.0, 2, "")


def test_a_start_that_nobody_ended_counts_up_to_its_last_sign_of_life() -> None:
    ledger = Ledger(STEPS)
    ledger.start("a", {}, 0.0)
    ledger.report("a", {"step": 10, "psnr_y": 30.0}, 4.0)
    ledger.start("a", {}, 1000.0)
    ledger.report("a", {"step": 20, "psnr_y": 30.0}, 1003.0)
    (row,) = ledger.rows()
    assert (row.seconds, row.status) == (7.0, "running")


_events = st.lists(
    st.tuples(st.sampled_from(["start", "report", "crash", "end", "fail"]), st.integers(0, 2), st.floats(0, 100)),
    max_size=20,
)


@given(_events)
def test_a_ledger_goes_on_from_its_state_as_if_nothing_had_happened(events: list[tuple[str, int, float]]) -> None:
    whole, parted, now = Ledger(STEPS), Ledger(STEPS), 0.0
    for number in range(3):
        whole.wait(f"t{number}", {})
        parted.wait(f"t{number}", {})
    for kind, number, later in events:
        now += later
        again = Ledger(STEPS)
        again.restore(json.loads(json.dumps(parted.state())))
        parted = again
        for ledger in (whole, parted):
            name = f"t{number}"
            if kind == "start":
                ledger.start(name, {"a": 1}, now)
            elif kind == "report":
                ledger.report(name, {"step": 10, "psnr_y": 30.0, "rates": [0.1]}, now)
            elif kind == "end":
                ledger.end(name, now)
            else:
                getattr(ledger, kind)(name, "boom", now)
    assert parted.rows() == whole.rows()
    # No trial can have run longer than the sweep.
    assert all(0 <= row.seconds <= now for row in whole.rows())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Failure # 1 (occurred at 2026-01-01_00-00-00)\nray::train() (pid=1)\n  File x\nKeyError: 'old'\n"
            "Failure # 2 (occurred at 2026-01-01_00-01-00)\nray::train() (pid=2)\n  File x\nValueError: boom\nmore\n",
            "ValueError: boom",
        ),
        (
            "Failure # 1 (occurred at 2026-01-01_00-00-00)\nThe actor died unexpectedly before finishing this task.\n"
            "\tclass_name: ImplicitFunc\n",
            "The actor died unexpectedly before finishing this task.",
        ),
    ],
)
def test_of_all_failures_the_root_cause_of_the_last_is_told_in_a_line(text: str, said: str, tmp_path: Path) -> None:
    trial = FakeTrial(0)
    trial.error_file = str(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text(text)
    assert error_text(trial) == said  # type: ignore[arg-type]


# The callback, with MLflow


class Driver:
    """One start of a sweep: calls the callback as Tune does."""

    def __init__(self, output: Path, state: dict[str, Any] | None = None):
        self.output = output
        self.warnings: list[str] = []
        self.tracker = Tracker(output, "sweeps", "my-sweep", self.warnings.append)
        self.tracker.start({"sampler": "tpe", "asha": {"grace_steps": 10}})
        self.clock = FakeClock()
        self.trials = [FakeTrial(number, levels=1 + number) for number in range(4)]
        texts = {"student": "edsr-baseline:width=8"}
        self.track = TrackTrials(self.tracker, STEPS, lambda values: texts, clock=self.clock)
        if state is not None:
            self.track.set_state(state)

    def start(self, number: int) -> None:
        self.track.on_trial_start(0, self.trials, self.trials[number])  # type: ignore[arg-type]

    def report(self, number: int, step: int, psnr_y: float, **known: Any) -> None:
        result = {"step": step, "psnr_y": psnr_y, "params": 1234, "aggregator": "ab12", "done": False, **known}
        self.clock.now += 5
        self.track.on_trial_result(0, self.trials, self.trials[number], result)  # type: ignore[arg-type]

    def complete(self, number: int) -> None:
        self.track.on_trial_complete(0, self.trials, self.trials[number])  # type: ignore[arg-type]

    def fail(self, number: int, error: str, again: bool) -> None:
        file = self.output / f"error-{number}.txt"
        file.write_text(f"Failure # 1 (occurred at x)\n{error}\n")
        self.trials[number].error_file = str(file)
        hook = self.track.on_trial_recover if again else self.track.on_trial_error
        hook(0, self.trials, self.trials[number])  # type: ignore[arg-type]

    def end(self) -> None:
        mark_best(self.tracker, self.track.rows(), ["psnr_y"])


class Tracked:
    """A sweep of four trials, killed in the middle and resumed, and what MLflow holds of it."""

    def __init__(self, output: Path):
        first = Driver(output)
        for number in (0, 1, 2):
            first.start(number)
        first.report(0, 10, 28.0)
        first.report(0, 30, 30.0, latency_ms=1.5)
        first.complete(0)
        first.report(1, 10, 27.0)
        first.complete(1)
        first.fail(2, "KeyError: 'once'", again=True)
        first.start(2)
        first.report(2, 10, 29.0)
        state = first.track.get_state()
        self.rows_between = first.track.rows()
        first.end()
        first.tracker.close("KILLED", PATIENCE_SECONDS)
        self.ids_between = (output / "mlflow_runs.json").read_text()
        second = Driver(output, json.loads(json.dumps(state)))
        second.start(2)
        second.report(2, 30, 31.0)
        second.complete(2)
        second.start(3)
        second.fail(3, "ValueError: boom", again=False)
        (output / "trials.csv").write_text("trial\n")
        track_files(second.tracker, [output / "trials.csv"])
        second.end()
        second.tracker.close(timeout_seconds=PATIENCE_SECONDS)
        self.second = second
        self.warnings = first.warnings + second.warnings
        self.ids = json.loads((output / "mlflow_runs.json").read_text())
        from mlflow import MlflowClient

        self.client = MlflowClient(f"sqlite:///{output}/mlflow.db")

    def run(self, trial: int | None = None) -> Any:
        name = None if trial is None else f"trial-{trial:04}"
        return self.client.get_run(self.ids["parent"] if name is None else self.ids["stages"][name])


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Tracked(tmp_path_factory.mktemp("sweep"))


def test_a_resumed_sweep_continues_its_run_and_those_of_its_trials(tracked: Tracked) -> None:
    between = json.loads(tracked.ids_between)
    assert between["parent"] == tracked.ids["parent"]
    assert between["stages"].items() <= tracked.ids["stages"].items()
    assert len(tracked.client.search_runs([tracked.run().info.experiment_id])) == 5
    assert tracked.warnings == []


def test_every_trial_is_a_child_with_its_searched_values_and_networks(tracked: Tracked) -> None:
    for number in range(4):
        run = tracked.run(number)
        assert run.data.tags["mlflow.parentRunId"] == tracked.run().info.run_id
        assert run.info.run_name == f"trial-{number:04}"
        assert run.data.params == {"loss.levels": str(1 + number), "student": "edsr-baseline:width=8"}


def test_the_parent_has_the_configuration_the_best_and_the_files(tracked: Tracked) -> None:
    run = tracked.run()
    assert run.data.params == {"sampler": "tpe", "asha.grace_steps": "10"}
    assert (run.data.tags["best.trial"], run.data.tags["best.status"]) == ("trial-0002", "done")
    assert run.data.metrics["best_psnr_y"] == 31.0
    assert [file.path for file in tracked.client.list_artifacts(run.info.run_id)] == ["trials.csv"]


def test_a_stopped_trial_is_no_failure_in_mlflow(tracked: Tracked) -> None:
    shown = [(tracked.run(n).info.status, tracked.run(n).data.tags["trial.status"]) for n in range(4)]
    assert shown == [("FINISHED", "done"), ("FINISHED", "stopped"), ("FINISHED", "done"), ("FAILED", "failed")]


def test_only_the_best_trial_of_all_starts_is_marked(tracked: Tracked) -> None:
    assert [tracked.run(n).data.tags["best"] for n in range(4)] == ["false", "false", "true", "false"]


def test_scores_are_metrics_over_steps_and_sizes_come_at_the_end(tracked: Tracked) -> None:
    history = tracked.client.get_metric_history(tracked.run(2).info.run_id, "psnr_y")
    assert sorted((metric.step, metric.value) for metric in history) == [(10, 29.0), (30, 31.0)]
    assert tracked.run(0).data.metrics == {
        "psnr_y": 30.0,
        "params": 1234.0,
        "latency_ms": 1.5,
        "seconds": 10.0,
        "starts": 1.0,
    }


def test_rows_tell_of_starts_errors_and_time_over_all_starts(tracked: Tracked) -> None:
    rows = tracked.second.track.rows()
    assert [(row.name, row.status, row.starts, row.error) for row in rows] == [
        ("trial-0000", "done", 1, ""),
        ("trial-0001", "stopped", 1, ""),
        ("trial-0002", "done", 3, ""),
        ("trial-0003", "failed", 1, "ValueError: boom"),
    ]
    # Trial 2: 15 s up to the crash, 5 s up to the kill, 5 s after it.
    assert rows[2].seconds == 25.0
    assert tracked.second.track.wall_seconds() == 25.0
    assert tracked.run(3).data.tags["trial.error"] == "ValueError: boom"


def test_a_trial_that_has_not_started_waits(tracked: Tracked) -> None:
    waiting = tracked.rows_between[3]
    assert (waiting.name, waiting.status, waiting.starts, waiting.values) == (
        "trial-0003",
        "waiting",
        0,
        {"loss.levels": 4},
    )


@pytest.mark.parametrize(("again", "status"), [(True, "waiting"), (False, "failed")])
def test_a_trial_whose_process_cannot_be_started_is_told_with_the_reason(
    tmp_path: Path, again: bool, status: str
) -> None:
    told: list[TrialRow] = []
    track = TrackTrials(
        Tracker(tmp_path, "e", "r", print), STEPS, lambda values: {}, lambda row, rows: told.append(row)
    )
    trial = FakeTrial(1)
    trial.error_file = str(tmp_path / "error.txt")
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at x)\nThe actor is not schedulable\n")
    hook = track.on_trial_recover if again else track.on_trial_error
    hook(0, [], trial)  # type: ignore[arg-type, list-item]
    assert track.rows() == told
    assert [(row.status, row.starts, row.error) for row in told] == [(status, 0, "The actor is not schedulable")]


def test_what_ran_or_failed_before_an_interruption_waits_until_tune_starts_it_again(tmp_path: Path) -> None:
    ledger = Ledger(STEPS)
    for name in ("done", "fails", "runs"):
        ledger.start(name, {}, 0.0)
        ledger.report(name, {"step": STEPS, "psnr_y": 30.0}, 5.0)
    ledger.end("done", 6.0)
    ledger.fail("fails", "ValueError: boom", 7.0)
    track = TrackTrials(Tracker(tmp_path, "e", "r", print), STEPS, lambda values: {})
    track.set_state(json.loads(json.dumps(ledger.state())) | {"wall_seconds": 8.0})
    assert [(row.name, row.status, row.seconds, row.error) for row in track.rows()] == [
        ("done", "done", 6.0, ""),
        ("fails", "waiting", 7.0, "ValueError: boom"),
        ("runs", "waiting", 5.0, ""),
    ]


def test_a_callback_that_tune_pickled_comes_back_as_the_one_at_work(tmp_path: Path) -> None:
    pickled = pickle.dumps(TrackTrials(Tracker(tmp_path, "e", "r", print), STEPS, lambda values: {}))
    resumed = TrackTrials(Tracker(tmp_path, "e", "r", print), STEPS, lambda values: {})
    assert pickle.loads(pickled) is resumed


def test_a_sweep_that_goes_on_without_its_state_ends_with_words(tmp_path: Path) -> None:
    track = TrackTrials(Tracker(tmp_path, "e", "r", print), STEPS, lambda values: {})
    track.expect_state()
    with pytest.raises(TrainingFailed, match="the state of the search cannot be read"):
        track.on_step_begin(0, [])
    track.set_state(track.get_state())
    track.on_step_begin(0, [])


def test_reports_from_before_are_known_after_a_restart() -> None:
    ledger, again = Ledger(STEPS), Ledger(STEPS)
    ledger.start("a", {}, 0.0)
    for step in (10, 20):
        ledger.report("a", {"step": step, "psnr_y": 30.0 + step}, 1.0)
    again.restore(json.loads(json.dumps(ledger.state())))
    assert again.reports("a") == [{"step": 10, "psnr_y": 40.0}, {"step": 20, "psnr_y": 50.0}]
    assert again.reports("b") == []


def test_a_pickled_callback_without_a_sweep_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = pickle.dumps(TrackTrials(Tracker(tmp_path, "e", "r", print), STEPS, lambda values: {}))
    monkeypatch.setattr(tracking, "_living", [])
    with pytest.raises(RuntimeError, match="make a TrackTrials first"):
        pickle.loads(pickled)


def test_of_a_failure_without_a_text_that_is_told() -> None:
    assert error_text(FakeTrial(0)) == "no error was written down"  # type: ignore[arg-type]


def test_in_tune_crashed_trials_are_tried_again_and_then_reported(ray_cluster: None, tmp_path: Path) -> None:
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        crashed = tmp_path / f"crashed-{config['loss.levels']}"
        for step in (10, 20, STEPS):
            if step == 20 and config["loss.levels"] > 1 and not (crashed.exists() and config["loss.levels"] == 2):
                crashed.touch()
                raise ValueError("boom")
            tune.report({"step": step, "psnr_y": 30.0 + step})

    tracker = Tracker(tmp_path, "sweeps", "my-sweep", print)
    track = TrackTrials(tracker, STEPS, lambda values: {})
    tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"loss.levels": tune.grid_search([1, 2, 3])},
        tune_config=tune.TuneConfig(trial_name_creator=lambda trial: f"trial-{trial.config['loss.levels']}"),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path),
            callbacks=[track],
            failure_config=tune.FailureConfig(max_failures=1),
            verbose=0,
        ),
    ).fit()
    assert [(row.name, row.status, row.starts, row.step, row.error) for row in track.rows()] == [
        ("trial-1", "done", 1, STEPS, ""),
        ("trial-2", "done", 2, STEPS, ""),
        ("trial-3", "failed", 2, 10, "ValueError: boom"),
    ]
    assert all(0 < row.seconds < track.wall_seconds() for row in track.rows())
