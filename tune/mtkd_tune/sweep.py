"""`python -m mtkd_tune`: trainings of aggregator and student with many settings, and teachers that answer once."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from rich.console import Console

from mtkd_dist.command import refuse_unseen, work_in
from mtkd_dist.config.load import ConfigError, flatten
from mtkd_dist.config.tree import Config
from mtkd_dist.habits import Habits, Parser, command, show_help
from mtkd_dist.methods import Aggregation
from mtkd_dist.pools.cluster import cluster, sigterm_as_interrupt
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.teacher_hosts import TeacherHosts
from mtkd_dist.pools.teacher_worker import TeacherJob
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.stages.answers import prepare, rendered_teachers
from mtkd_dist.stages.check import check
from mtkd_dist.stages.distil_method import in_force
from mtkd_dist.stages.inputs import fetched
from mtkd_dist.stages.manifest import write_text
from mtkd_dist.stages.photos import prepare_images
from mtkd_dist.stages.run import Run, say
from mtkd_dist.stages.teachers import ReadyTeachers, run_teachers
from mtkd_dist.tracking.tracker import Tracker
from mtkd_dist.train.live import LiveTeachers, live_source
from mtkd_tune.aggregates import forget_aggregates
from mtkd_tune.check import check_sweep
from mtkd_tune.cost import aggregators_work, cost, sentences, teachers_work
from mtkd_tune.load import base_config, load_sweep
from mtkd_tune.ranking import best, ranked
from mtkd_tune.results import BEST, hand_back
from mtkd_tune.room import Room, room_of
from mtkd_tune.rows import TrialRow
from mtkd_tune.search import refused
from mtkd_tune.shared import share
from mtkd_tune.space import Space
from mtkd_tune.study import run_trials
from mtkd_tune.table import screen, trial_line
from mtkd_tune.tracking import TrackTrials, mark_best, track_files
from mtkd_tune.tree import Objective, SweepConfig

LOG = "sweep.log"
FILE = "sweep.yaml"
SETTINGS: tuple[type, dict[str, type]] = (SweepConfig, {"launch": Config})
"""What flags may set, for shells that complete them."""
EXAMPLE = """example:
  mtkd tune --config sweep.yaml --num-samples 20 --num-gpus 8
"""
GUESTS = 16
"""Trials whose jobs a host of live teachers remembers, at least."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`mtkd_dist.habits`)."""
    return command(argv, _main)


def parser() -> Parser:
    """What `--help` shows."""
    parser = Parser(
        "mtkd tune",
        "Search settings of aggregator, loss and training, with teachers that answer\n"
        "once for all trials. Without flags: a search of minutes.",
        EXAMPLE,
        usage="%(prog)s [FLAGS]",
    )
    add = parser.add_argument
    add("--help-all", action="store_true", help="list every setting but those of --launch.*")
    add("--config", metavar="FILE", help="YAML file of settings and of the search")
    add("--launch.data", nargs="+", metavar="DIR", help="any setting of a launch, for all trials alike")
    add("--target", choices=("distil", "aggregate"), help="the training whose scores count")
    add(
        "--objectives",
        nargs="+",
        metavar="O",
        choices=get_args(Objective),
        help="psnr_y, and params or latency_ms",
    )
    add("--num-samples", type=int, metavar="N", help="trials")
    add("--scheduler", choices=("asha", "none", "pbt"), help="early stopping, or population-based")
    add("--trial.gpus", type=float, metavar="N", help="of one trial, also a part of one (0.5)")
    add("--num-gpus", type=int, metavar="N", help="of the whole sweep; default: all")
    add("--resume", action="store_true", help="go on with the sweep in the output folder")
    add("--output", metavar="DIR", help="of everything")
    return parser


def _main(words: list[str], habits: Habits) -> object:
    sweep = load_sweep(show_help(words, parser()))
    used, left_out = in_force(base_config(sweep))
    base = fetched(used, habits.tell)
    check(base)
    space = Space.parse(sweep.search, base)
    check_sweep(sweep, base, space)
    output = Path(sweep.output).resolve()
    check_folder(sweep, output)
    return work_in(
        output,
        LOG,
        "sweep",
        "The same command with --resume goes on.",
        habits,
        lambda console: run_sweep(sweep, base, space, output, console, left_out),
    )


def check_folder(sweep: SweepConfig, output: Path) -> None:
    """Errors: ConfigError where the folder holds another sweep, or this one and it was not asked to go on."""
    file = output / FILE
    if not file.exists():
        return
    if not sweep.resume:
        raise ConfigError(
            f"output: {output} holds a sweep; go on with it (--resume), or give another --output. To search on with "
            f"the same rendered answers, set launch.answers.folder to {output / 'teacher-outputs'}"
        )
    before, now = (flatten(settings) for settings in (yaml.safe_load(file.read_text()), settings_of(sweep)))
    changed = [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not key.startswith("cluster.")
    ]
    if changed:
        raise ConfigError(
            f"output: the sweep in {output} was begun with other settings ({'; '.join(changed)}), and a search goes on "
            "with those that it began with; resume it with them, or give another --output"
        )


def settings_of(sweep: SweepConfig) -> dict[str, Any]:
    """As plain data. To go on is no setting of what goes on."""
    return dataclasses.asdict(dataclasses.replace(sweep, resume=False))


def run_sweep(
    sweep: SweepConfig, base: Config, space: Space, output: Path, console: Console, left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns what `--json` prints. `left_out`: a line about each thing that the method does not use.

    Errors: KeyboardInterrupt, once what is there is handed back; TrainingFailed where all trials failed; those of
    the stages of a launch."""
    tell = functools.partial(say, console)
    trials = sweep.pbt.population if sweep.scheduler == "pbt" else sweep.num_samples
    tell(f"mtkd-tune  {trials} trials of {sweep.target}, {sweep.sampler}, {sweep.scheduler}, output {sweep.output}")
    for line in left_out:
        tell(line)
    tracker = Tracker(output, "mtkd-tune", output.name, lambda text: tell(f"warning: {text}"))
    tracker.start(settings_of(sweep))
    track = TrackTrials(
        tracker,
        getattr(base, sweep.target).steps,
        lambda values: _texts(space.config(base, values)),
        watch=lambda row, rows: tell(trial_line(row, rows, sweep.objectives)),
    )
    status = "FAILED"
    try:
        with cluster(sweep.cluster, lambda text: tell(f"warning: {text}")) as resources, sigterm_as_interrupt():
            tell(f"cluster  {resources.cpus} CPUs, {resources.gpus} GPUs, {resources.nodes} node(s)")
            refuse_unseen(base, output, resources)
            room = room_of(sweep, resources, live=base.teacher_outputs == "live" and bool(base.teachers))
            images = prepare_images(space.with_largest_patches(base), output, tell)
            run = Run(base, output, console, tracker, resources, *images)
            try:
                _train_trials(sweep, space, run, room, track)
            finally:
                # What is there is worth having, however it ended.
                if track.rows():
                    _hand_back(sweep, base, space, output, track, tracker, console)
        if was_interrupted(track.rows(), trials):
            raise KeyboardInterrupt  # Tune took it, and wrote down how the search stands
        if all(row.status == "failed" for row in track.rows()):
            raise TrainingFailed("all trials failed; trials.csv has the reason of each, trials/NAME/trial.log its log")
        forget_aggregates(output)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)
    chosen = best(track.rows(), sweep.objectives)
    return {
        "output": sweep.output,
        "best": chosen and chosen.row.name,
        "configuration": chosen and output / BEST,
        "trials": [dataclasses.asdict(row) for row in ranked(track.rows())],
    }


def was_interrupted(rows: Sequence[TrialRow], trials: int) -> bool:
    """Whether some of `trials` have not ended; one that was still about to start has no row."""
    return sum(row.status in ("done", "stopped", "failed") for row in rows) < trials


def _train_trials(sweep: SweepConfig, space: Space, run: Run, room: Room, track: TrackTrials) -> None:
    """What all trials share is made first, then they run. A mistake that shows before that leaves no sweep behind."""
    teachers = run_teachers(run)
    if room.teachers is None and teachers.files:
        prepare(run, rendered_teachers(run, teachers.files, teachers.digests))
    with _live_teachers(run, teachers, room) as live:
        shared = share(run, teachers, sweep, room.trial, live)
        write_text(run.output / FILE, yaml.safe_dump(settings_of(sweep), sort_keys=False))
        run.say(f"trials  {room.concurrent} at a time, {room.trial.cpus:g} CPUs and {room.trial.gpus:g} GPUs each")
        run_trials(sweep, space, shared, room, run.output, track, run.say)


def _texts(config: Config) -> Mapping[str, str]:
    return {"aggregator": config.aggregator, "student": config.student}


@contextlib.contextmanager
def _live_teachers(run: Run, teachers: ReadyTeachers, room: Room) -> Iterator[LiveTeachers | None]:
    """One pool of teachers for all trials; None where their images are rendered."""
    if room.teachers is None:
        yield None
        return
    config = run.config
    job = TeacherJob(
        method=Aggregation(),
        plan=run.plan(config.distil),
        slot_size=config.link.slot_size,
        scale=config.scale,
        images=run.images.folder,
        teachers=teachers.files,
        aggregator=None,
        wire=config.link.wire,
        pool=room.teachers,
        precision=config.teacher_precision,
    )
    # A sweep that goes on has as many trials at a time as it began with, wherever it is now.
    trainings = max(room.concurrent, GUESTS)
    run.say(f"teachers  {room.teachers.workers} hosts that all trials share")
    with TeacherHosts(job, room.teachers, trainings, run.say) as hosts:
        yield functools.partial(live_source, hosts)


def _hand_back(
    sweep: SweepConfig,
    base: Config,
    space: Space,
    output: Path,
    track: TrackTrials,
    tracker: Tracker,
    console: Console,
) -> None:
    rows = track.rows()
    spent = cost(rows, track.wall_seconds(), *teachers_work(output), aggregators_work(output), refused(output))
    today = datetime.date.today().isoformat()
    handed = hand_back(
        output, rows, sweep, lambda row: space.config(base, row.values), space.distributions(), spent, today
    )
    mark_best(tracker, rows, sweep.objectives)
    track_files(tracker, handed.files)
    with even_if_quiet(console):
        console.print(screen(rows, sweep.objectives))
    for line in [*sentences(spent), *handed.notes]:
        say(console, line)
    if output / BEST in handed.files:
        say(console, f"python -m mtkd_dist.launch --config {output / BEST}")
