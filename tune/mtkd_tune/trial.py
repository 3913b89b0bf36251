"""One trial of a sweep: aggregator and student with one set of values, in the calling process and without Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import traceback
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from mtkd_dist.command import alone_in
from mtkd_dist.config.tree import Config
from mtkd_dist.data import ImageStore
from mtkd_dist.data.teacher_outputs import total_bytes
from mtkd_dist.models import aggregator_path, build_aggregator, build_network
from mtkd_dist.one_process import OneProcess
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.placement import Resources
from mtkd_dist.report.screen import WIDTH_OF_A_FILE
from mtkd_dist.stages import half_done, manifest
from mtkd_dist.stages.aggregate import aggregate_training, run_aggregate
from mtkd_dist.stages.answers import outputs_folder
from mtkd_dist.stages.distil import distil_training, run_distil
from mtkd_dist.stages.distil_method import needs_aggregator
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.training import Training
from mtkd_dist.tracking.tracker import Untracked
from mtkd_dist.train.stopping import Saved
from mtkd_tune.aggregates import holding
from mtkd_tune.card import memory_fraction
from mtkd_tune.latency import latency_ms
from mtkd_tune.population import handed_rates, in_parts, take_over
from mtkd_tune.reports import Report, Reports
from mtkd_tune.shared import Shared

LOG = "trial.log"


def run_trial(config: Config, shared: Shared, name: str, report: Report, handed_over: Path | None = None) -> None:
    """Train what `config` says, with all that is `shared`, and report each validation of the target.

    The aggregator lies in OUTPUT/aggregators, and its images in OUTPUT/aggregator-outputs, for all trials that ask for
    the same one; everything else in OUTPUT/trials/NAME, also the log. Called again, it goes on where it was, and
    reports the last step once more. What is reported:

    - "step": steps of the target that are made; "psnr_y": dB on the held-out photographs;
    - "params", and "latency_ms" (see `mtkd_tune.latency`) if it is an objective: of the target's network;
    - "aggregator": name of its folder, "" where none is trained; "aggregator_trained": whether this trial finished it;
    - with pbt "rates": of the parts that are done. Only ends of parts are reported then, each with a folder.

    Args:
        config: `shared.config` with the values of this trial.
        handed_over: with pbt, such a folder, of this trial or another: training goes on from there, with the learning
            rate of `config` in all parts that are not done.

    Errors: ValueError where no validation came to a score; Saved where it was asked to stop; whatever goes wrong is in
    the log, too.
    """
    folder = shared.trial_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("a", buffering=1, encoding="utf-8") as log:
        console = Console(file=log, width=WIDTH_OF_A_FILE)
        try:
            _Trial(config, shared, name, report, handed_over, console).run()
        except Saved as saved:
            console.print(str(saved), markup=False, highlight=False)
            raise
        except Exception:
            console.print(traceback.format_exc(), markup=False, highlight=False, soft_wrap=True)
            raise


class _Trial:
    def __init__(
        self, config: Config, shared: Shared, name: str, report: Report, handed_over: Path | None, console: Console
    ) -> None:
        self._shared = shared
        self._name = name
        self._target = shared.sweep.target
        self._handed_over = handed_over
        pool = shared.pool
        use_threads(pool.threads)
        self._device = pick_device(pool.gpus > 0)
        if self._device.type == "cuda" and pool.gpus < 1:
            card = torch.cuda.get_device_properties(self._device)
            torch.cuda.set_per_process_memory_fraction(memory_fraction(pool.gpus, card.total_memory), self._device)
        training = getattr(config, self._target)
        if shared.parts:
            training = in_parts(training, shared.parts, handed_rates(handed_over) if handed_over else [])
        note = functools.partial(_write_down, shared.trial_folder(name) / LOG)
        self._run = Run(
            # With pbt, a trial gives its own training up for a copy of another's.
            dataclasses.replace(config, on_change="restart", **{self._target: training}),
            shared.trial_folder(name),
            console,
            Untracked(),
            Resources(pool.threads, 1 if pool.gpus else 0),
            ImageStore.open(shared.images),
            ImageStore.open(shared.validation),
            {},
            engine=OneProcess(name, pool, shared.live, note, self._begins, self._scored, shared.asked_to_stop),
        )
        rates = training.rates if shared.parts else []
        self._reports = Reports(self._run.output, report, training.steps, rates, handed_over)

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            self._train(stack)
        if self._reports.newest < 0:
            raise ValueError(f"{self._name}: no validation of {self._target} came to a score; {LOG} has the reason")

    def _train(self, stack: contextlib.ExitStack) -> None:
        teachers, cached = self._shared.teachers, self._shared.live is None
        aggregator, facts = aggregator_path(self._run.config.aggregator), _facts("", False)
        if aggregator is None and needs_aggregator(self._run.config):
            aggregator, facts = self._aggregator(cached, stack)
        if self._target == "distil":
            training = distil_training(self._run, teachers, aggregator, cached)
            self._describe(training, facts)
            run_distil(self._run, teachers, aggregator, cached)
            self._report_rest(self._run, training)

    def _aggregator(self, cached: bool, stack: contextlib.ExitStack) -> tuple[Path, dict[str, Any]]:
        """Its file, and what is reported of it. Trains it, or waits for another trial that does.

        `stack` then holds the room for its images. Errors: ValueError where there is none, before it is trained.
        """
        teachers = self._shared.teachers
        training = aggregate_training(self._run, teachers, cached)
        key = manifest.fingerprint(training.inputs(self._run) | training.choice(self._run))
        if self._target == "distil" and training.rendered is not None:
            # It takes as much as one teacher.
            size = total_bytes([training.rendered.teachers[0].outputs])
            most, answers = self._run.config.answers.max_bytes, outputs_folder(self._run)
            room = stack.enter_context(holding(self._shared.output, key, size, answers, most))
            self._run = dataclasses.replace(self._run, aggregate_outputs=room)
        run = dataclasses.replace(self._run, output=self._shared.aggregator_folder(key))
        with alone_in(run.output, lambda: run.say(f"aggregate: another trial is at work in {run.output}; waiting")):
            # While it trains, it is this trial that does.
            self._describe(training, _facts(key, True))
            path = run_aggregate(run, teachers, cached)
        facts = _facts(key, _left(run, training)["trained_by"] == self._name)
        self._describe(training, facts)
        self._report_rest(run, training)
        return path, facts

    def _describe(self, training: Training, facts: dict[str, Any]) -> None:
        """Beside its scores, if it is the target."""
        if training.stage == self._target:
            self._reports.facts = (self._reports.facts or self._measured(training)) | facts

    def _measured(self, training: Training) -> dict[str, Any]:
        num_teachers, scale = len(training.teachers) if training.trains_aggregator else 0, self._run.config.scale
        network: nn.Module = (
            build_aggregator(training.network, num_teachers, scale)
            if num_teachers
            else build_network(training.network, scale)
        )
        facts: dict[str, Any] = {"params": sum(parameter.numel() for parameter in network.parameters())}
        if "latency_ms" in self._shared.sweep.objectives:
            facts["latency_ms"] = latency_ms(network, num_teachers, scale, self._device)
        return facts

    def _begins(self, stage: str, checkpoints: Path) -> None:
        if stage == self._target and self._handed_over is not None:
            take_over(self._handed_over, checkpoints)

    def _scored(self, stage: str, record: dict[str, Any], checkpoints: Path) -> None:
        if stage == self._target:
            self._reports.offer(record, checkpoints)

    def _report_rest(self, run: Run, training: Training) -> None:
        """What was scored before where the training was done before."""
        checkpoints = half_done.folder_for(run.output / training.stage, training.inputs(run))
        for record in _left(run, training)["validations"]:
            self._scored(training.stage, record, checkpoints)


def _write_down(log: Path, text: str) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{text}\n")


def _facts(aggregator: str, trained: bool) -> dict[str, Any]:
    return {"aggregator": aggregator, "aggregator_trained": trained}


def _left(run: Run, training: Training) -> dict[str, Any]:
    """What the manifest of a training that is done says of its course."""
    found = manifest.read(run.output / training.stage)
    assert found is not None
    return found.summary
