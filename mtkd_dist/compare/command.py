"""`mtkd compare`: trains every method with every student and seed, and says what they differ by."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from mtkd_dist.command import EXIT_INTERRUPTED, EXIT_USAGE, refuse_unseen, work_in
from mtkd_dist.compare.check import check_compare, check_unchanged
from mtkd_dist.compare.load import base_config, load_compare
from mtkd_dist.compare.results import Outcomes, hand_back
from mtkd_dist.compare.room import Room, room_of
from mtkd_dist.compare.schedule import run_works
from mtkd_dist.compare.shared import share
from mtkd_dist.compare.tracking import Cells
from mtkd_dist.compare.tree import CompareConfig
from mtkd_dist.compare.work import Work, config_of_method, count_cells, works_of
from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import Config
from mtkd_dist.pools.cluster import cluster, sigterm_as_interrupt
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.stages.answers import prepare, rendered_teachers
from mtkd_dist.stages.inputs import fetched
from mtkd_dist.stages.manifest import write_text
from mtkd_dist.stages.photos import prepare_images
from mtkd_dist.stages.run import Run, say
from mtkd_dist.stages.teachers import run_teachers
from mtkd_dist.stages.training import check_results
from mtkd_dist.tracking.tracker import Tracker

LOG = "compare.log"
FILE = "compare.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 1 failed (also one cell), 2 wrong usage, 130 interrupted."""
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _main(argv: Sequence[str]) -> int:
    try:
        compare = load_compare(argv)
        base = fetched(base_config(compare), print)
        check_compare(compare, base)
        output = Path(compare.output).resolve()
        check_unchanged(compare, output / FILE)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return work_in(
        output,
        LOG,
        "comparison",
        "Interrupted. The same command goes on; cells that are done count.",
        lambda console: run_compare(compare, base, output, console),
    )


def run_compare(compare: CompareConfig, base: Config, output: Path, console: Console) -> None:
    """Errors: KeyboardInterrupt and TrainingFailed (some cells), once what is there is handed back; those of the stages
    of a launch."""
    tell = functools.partial(say, console)
    works = works_of(compare, base)
    many = f"{len(compare.methods)} methods x {len(compare.students)} students x {len(compare.seeds)} seeds"
    tell(f"mtkd-dist  {many}, preset {base.preset}, x{base.scale}, output {compare.output}")
    tracker = Tracker(output, "mtkd-compare", output.name, lambda text: tell(f"warning: {text}"))
    tracker.start(dataclasses.asdict(compare))
    outcomes = Outcomes(compare, base, output)
    status = "FAILED"
    try:
        with cluster(compare.cluster, lambda text: tell(f"warning: {text}")) as resources, sigterm_as_interrupt():
            tell(f"cluster  {resources.cpus} CPUs, {resources.gpus} GPUs, {resources.nodes} node(s)")
            refuse_unseen(base, output, resources)
            room = room_of(compare, resources)
            run = Run(base, output, console, tracker, resources, *prepare_images(base, output, tell))
            check_results(run)
            try:
                _train_cells(compare, works, run, room, outcomes)
            finally:
                # What is there is worth having, however it ended.
                hand_back(outcomes, output, tracker, console)
        if outcomes.failures:
            raise TrainingFailed(
                f"{len(outcomes.failures)} failed of {count_cells(works)} cells and the references (above; the log of "
                "each cell is in its folder below cells); the same command tries again, and what is done counts"
            )
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.close(status)


def _train_cells(compare: CompareConfig, works: Sequence[Work], run: Run, room: Room, outcomes: Outcomes) -> None:
    """What all cells share is made first, then they run. A mistake that shows before that binds nobody to its words."""
    teachers = run_teachers(run)
    if any(config_of_method(run.config, method).teacher_outputs == "cached" for method in compare.methods):
        prepare(run, rendered_teachers(run, teachers.files, teachers.digests))
    shared = share(run, teachers, room.cell)
    write_text(run.output / FILE, yaml.safe_dump(dataclasses.asdict(compare), sort_keys=False))
    cells = Cells(run.tracker, count_cells(works), run.say)
    run.say(f"cells  {count_cells(works)}, {room.cell.cpus:g} CPUs and {room.cell.gpus:g} GPUs each")
    for work, outcome in run_works(shared, works, room, compare.cell.retries):
        outcomes.add(work, outcome)
        cells.ended(work, outcome)
