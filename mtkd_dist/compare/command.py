"""`mtkd compare`: trains every method with every student and seed, and says what they differ by."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from mtkd_dist.command import refuse_unseen, work_in
from mtkd_dist.compare.check import check_compare, check_unchanged
from mtkd_dist.compare.load import base_config, load_compare
from mtkd_dist.compare.results import TABLES, Outcomes, hand_back
from mtkd_dist.compare.room import Room, room_of
from mtkd_dist.compare.schedule import run_works
from mtkd_dist.compare.shared import share
from mtkd_dist.compare.tracking import Cells
from mtkd_dist.compare.tree import METHODS, PRESETS, CompareConfig
from mtkd_dist.compare.work import Work, config_of_method, count_cells, works_of
from mtkd_dist.config.tree import Config
from mtkd_dist.habits import Habits, Parser, command, show_help
from mtkd_dist.pools.board import AskedToStop, start_board
from mtkd_dist.pools.cluster import cluster, sigterm_as_interrupt
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.pools.interrupts import FINISHING
from mtkd_dist.report.comparison_csv import summary_rows
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
SETTINGS: tuple[type, dict[str, type]] = (CompareConfig, {"launch": Config})
"""What flags may set, for shells that complete them."""
EXAMPLE = """example:
  mtkd compare --methods mtkd mean kd scratch --students rlfn --seeds 0 1 2 \\
      --launch.data PHOTOS --launch.teachers a.pth b.pth --output runs/compare
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`mtkd_dist.habits`): also one cell that failed is a failure."""
    return command(argv, _main)


def parser() -> Parser:
    """What `--help` shows."""
    parser = Parser(
        "mtkd compare",
        "Compare methods: same students, photographs, steps and seeds, teachers that\n"
        "answer once for all. Without flags: a comparison of minutes.",
        EXAMPLE,
        usage="%(prog)s [FLAGS]",
    )
    add = parser.add_argument
    add("--help-all", action="store_true", help="list every setting but those of --launch.*")
    add("--config", metavar="FILE", help="YAML file of any settings; flags win over it")
    add("--preset", metavar="NAME", choices=tuple(PRESETS), help="defaults: demo, paper-x2, paper-x3 or paper-x4")
    add(
        "--methods",
        nargs="+",
        metavar="M",
        choices=METHODS,
        help="mtkd, mean, kd, ...; default: all",
    )
    add("--students", nargs="+", metavar="NET", help="networks to train (edsr-baseline, rlfn)")
    add("--seeds", nargs="+", type=int, metavar="N", help="a training of each method and student for each")
    add("--launch.data", nargs="+", metavar="DIR", help="any setting of a launch, for all cells alike")
    add("--num-gpus", type=int, metavar="N", help="of the whole comparison; default: all")
    add("--cell.gpus", type=float, metavar="N", help="of one cell, also a part of one (0.5)")
    add("--output", metavar="DIR", help="of everything; the same command goes on with it")
    return parser


def _main(words: list[str], habits: Habits) -> object:
    compare = load_compare(show_help(words, parser()))
    base = fetched(base_config(compare), habits.tell)
    check_compare(compare, base)
    output = Path(compare.output).resolve()
    check_unchanged(compare, output / FILE)
    return work_in(
        output,
        LOG,
        "comparison",
        "The same command goes on; cells that are done count.",
        habits,
        lambda console: run_compare(compare, base, output, console),
    )


def run_compare(compare: CompareConfig, base: Config, output: Path, console: Console) -> dict[str, Any]:
    """Returns what `--json` prints.

    Errors: KeyboardInterrupt and TrainingFailed (some cells), once what is there is handed back; those of the stages
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
    return {"output": compare.output, "tables": output / TABLES, "summary": summary_rows(outcomes.comparison())}


def _train_cells(compare: CompareConfig, works: Sequence[Work], run: Run, room: Room, outcomes: Outcomes) -> None:
    """What all cells share is made first, then they run. A mistake that shows before that binds nobody to its words."""
    teachers = run_teachers(run)
    if any(config_of_method(run.config, method).teacher_outputs == "cached" for method in compare.methods):
        prepare(run, rendered_teachers(run, teachers.files, teachers.digests))
    board = start_board()
    shared = share(run, teachers, room.cell, AskedToStop(board))
    write_text(run.output / FILE, yaml.safe_dump(dataclasses.asdict(compare), sort_keys=False))
    cells = Cells(run.tracker, count_cells(works), run.say)
    run.say(f"cells  {count_cells(works)}, {room.cell.cpus:g} CPUs and {room.cell.gpus:g} GPUs each")

    def stop() -> None:
        run.say(f"cells  {FINISHING}")
        board.stop.remote()

    for work, outcome in run_works(shared, works, room, compare.cell.retries, stop):
        outcomes.add(work, outcome)
        cells.ended(work, outcome)
