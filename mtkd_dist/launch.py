"""`python -m mtkd_dist.launch`: from photographs and teachers to a distilled student with its scores."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from mtkd_dist.command import refuse_unseen, work_in
from mtkd_dist.config.load import ConfigError, dump_config, load_config
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import Config, MethodName
from mtkd_dist.data.remote import is_remote
from mtkd_dist.habits import Habits, Parser, command, show_help
from mtkd_dist.models import network_names
from mtkd_dist.pools.cluster import cluster, sigterm_as_interrupt
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.report.tables import summary
from mtkd_dist.stages.check import check
from mtkd_dist.stages.distil_method import in_force, method_title, needs_aggregator
from mtkd_dist.stages.environment import write_environment
from mtkd_dist.stages.inputs import fetched
from mtkd_dist.stages.mirror import MirrorError, mirrored, working_folder
from mtkd_dist.stages.photos import prepare_images
from mtkd_dist.stages.pipeline import run_stages
from mtkd_dist.stages.plan_only import show_plan
from mtkd_dist.stages.register import register_students
from mtkd_dist.stages.run import Run, check_layouts, say
from mtkd_dist.stages.run_report import FILE as REPORT
from mtkd_dist.stages.run_report import write_report
from mtkd_dist.stages.split import FILE as PLAN
from mtkd_dist.stages.students import student_titles
from mtkd_dist.tracking.tracker import Tracker

LOG = "launch.log"
logger = logging.getLogger(__name__)
SETTINGS: tuple[type, dict[str, type]] = (Config, {})
"""What flags may set, for shells that complete them."""
EXAMPLE = """example:
  mtkd launch --data PHOTOS --teachers a.pth b.safetensors edsr \\
      --student edsr-baseline --scale 4 --num-gpus 8 --output runs/x
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`mtkd_dist.habits`)."""
    return command(argv, _main)


def parser() -> Parser:
    """What `--help` shows."""
    parser = Parser(
        "mtkd launch",
        "Train teachers, aggregate, distil a student, score. Without flags: the demo.",
        EXAMPLE,
        usage="%(prog)s [FLAGS]",
    )
    add = parser.add_argument
    add("--help-all", action="store_true", help="list every setting (--distil.steps, --link.wire, ...)")
    add("--config", metavar="FILE", help="YAML file of any settings; flags win over it")
    add("--preset", metavar="NAME", choices=tuple(PRESETS), help="defaults: demo, paper-x2, paper-x3, paper-x4")
    add("--data", nargs="+", metavar="DIR", help="photographs to train on, or data sets")
    add("--test", nargs="+", metavar="DIR", help="photographs to score on (DIR or NAME=DIR)")
    add("--teachers", nargs="+", metavar="T", help="weight files, or networks to train first (edsr, rcan)")
    add("--student", metavar="NET", choices=network_names(), help="network to train (edsr-baseline:width=32,blocks=4)")
    add(
        "--method",
        metavar="NAME",
        choices=get_args(MethodName),
        help="mtkd, mean, kd, at, fakd, dukd, crosskd or scratch",
    )
    add("--scale", type=int, choices=(2, 3, 4), help="enlargement")
    add("--num-gpus", type=int, metavar="N", help="of teachers and students together; default: all")
    add("--output", metavar="DIR", help="of everything; the same command goes on with it")
    add("--plan-only", action="store_true", help="time both pools, print how to split the devices, stop")
    return parser


def _main(words: list[str], habits: Habits) -> object:
    config = load_config(show_help(words, parser()))
    used, left_out = in_force(config)
    local = fetched(used, habits.tell)
    check(local)
    try:
        output = working_folder(config.output)
    except MirrorError as error:
        raise ConfigError(str(error)) from None

    def work(console: Console) -> object:
        with mirrored(config.output, output, functools.partial(say, console)):
            return _launch(config, local, output, console, left_out)

    return work_in(output, LOG, "launch", "The same command goes on from the last checkpoint.", habits, work)


def _launch(config: Config, local: Config, output: Path, console: Console, left_out: list[str]) -> dict[str, Any]:
    """`config` is what was asked for; `local` what its method uses of it, with paths of this machine for URLs.

    Returns what `--json` prints. `left_out`: a line about each thing that the method does not use.
    """
    began = time.monotonic()
    tell = functools.partial(say, console)
    students = " and ".join([config.student, *config.more_students])
    what = f"preset {config.preset}, x{config.scale}, method {method_title(config.method)}, student {students}"
    tell(f"mtkd-dist  {what}, output {config.output}")
    for line in left_out:
        tell(line)
    # To look at a plan is no setting of the run that follows it.
    settings = dataclasses.replace(config, plan_only=False)
    (output / "config.yaml").write_text(dump_config(settings))
    tracker = Tracker(output, "mtkd-dist", output.name, lambda text: tell(f"warning: {text}"))
    tracker.start(dataclasses.asdict(settings))
    status = "FAILED"
    try:
        with cluster(config.cluster, lambda text: tell(f"warning: {text}")) as resources, sigterm_as_interrupt():
            tell(f"cluster  {resources.cpus} CPUs, {resources.gpus} GPUs, {resources.nodes} node(s)")
            refuse_unseen(local, output, resources)
            write_environment(output, resources)
            # A split that cannot work is refused now, not after images are decoded and teachers trained.
            check_layouts(local, resources)
            stores = prepare_images(local, output, tell)
            run = Run(local, output, console, tracker, resources, *stores)
            if config.plan_only:
                plan = show_plan(run)
                status = "FINISHED"
                return {"output": config.output, "plan": plan}
            rows = run_stages(run)
        tracker.run.metrics({f"psnr_y/{row['set']}/{row['model']}": row["psnr_y"] for row in rows})
        report = _write_report(output, tell)
        for name in ("config.yaml", "scores.json", *report, *_weights(local)):
            tracker.run.artifact(output / name)
        registered = register_students(run, rows)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if (output / PLAN).exists():
            tracker.run.artifact(output / PLAN)
        tracker.close(status)
    run.seconds["all together"] = time.monotonic() - began
    place = config.output if is_remote(config.output) else str(output)
    files = {Path(name).stem: f"{place}/{name}" for name in report} | _files(place, output, _weights(local))
    files["registered"] = ", ".join(registered)
    with even_if_quiet(console):
        console.print(summary(rows, run.seconds, files, run.limits))
    return {"output": place, "scores": rows, "files": files, "seconds": run.seconds, "limits": run.limits}


def _write_report(output: Path, tell: Callable[[str], None]) -> list[str]:
    """The name of its file; none, and a warning, where the page cannot be made: that is no reason to lose a run."""
    try:
        write_report(output, output / REPORT)
    except Exception as error:
        logger.exception("the report failed")
        tell(f"warning: there is no report ({type(error).__name__}: {error}); `mtkd report {output}` tries again")
        return []
    return [REPORT]


def _weights(config: Config) -> list[str]:
    """Files of weights that a launch makes; those of another method may still lie beside them."""
    titles = [*student_titles(config), *(["aggregator"] if needs_aggregator(config) else [])]
    return [f"{title}.safetensors" for title in titles]


def _files(place: str, output: Path, weights: list[str]) -> dict[str, str]:
    """What -> where, for the end of the screen: in `place`, for which a launch may work in another folder, `output`."""
    return {
        **{Path(name).stem: f"{place}/{name}" for name in weights},
        "scores": f"{place}/scores.json",
        "pictures": f"{place}/samples",
        "configuration": f"{place}/config.yaml",
        "log": f"{place}/{LOG}",
        "tracking": os.environ.get("MLFLOW_TRACKING_URI")
        or f"mlflow ui --backend-store-uri {shlex.quote(f'sqlite:///{output}/mlflow.db')}",
    }


if __name__ == "__main__":
    sys.exit(main())
