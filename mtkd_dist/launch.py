"""`python -m mtkd_dist.launch`: from photographs and teachers to a distilled student with its scores."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mtkd_dist.command import EXIT_INTERRUPTED, EXIT_USAGE, refuse_unseen, work_in
from mtkd_dist.config.load import ConfigError, dump_config, load_config
from mtkd_dist.config.tree import Config
from mtkd_dist.data.remote import is_remote
from mtkd_dist.pools.cluster import cluster, sigterm_as_interrupt
from mtkd_dist.report.tables import summary
from mtkd_dist.stages.check import check
from mtkd_dist.stages.distil_method import in_force, needs_aggregator
from mtkd_dist.stages.inputs import fetched
from mtkd_dist.stages.mirror import MirrorError, mirrored, working_folder
from mtkd_dist.stages.photos import prepare_images
from mtkd_dist.stages.pipeline import run_stages
from mtkd_dist.stages.plan_only import show_plan
from mtkd_dist.stages.register import register_students
from mtkd_dist.stages.run import Run, check_layouts, say
from mtkd_dist.stages.split import FILE as PLAN
from mtkd_dist.stages.students import student_titles
from mtkd_dist.tracking.tracker import Tracker

LOG = "launch.log"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _main(argv: Sequence[str]) -> int:
    try:
        config = load_config(argv)
        used, left_out = in_force(config)
        local = fetched(used, print)
        check(local)
        output = working_folder(config.output)
    except (ConfigError, MirrorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE

    def work(console: Console) -> None:
        with mirrored(config.output, output, functools.partial(say, console)):
            _launch(config, local, output, console, left_out)

    return work_in(output, LOG, "launch", "Interrupted. The same command goes on from the last checkpoint.", work)


def _launch(config: Config, local: Config, output: Path, console: Console, left_out: list[str]) -> None:
    """`config` is what was asked for; `local` what its method uses of it, with paths of this machine for URLs.

    `left_out`: a line about each thing that it does not use.
    """
    began = time.monotonic()
    tell = functools.partial(say, console)
    students = " and ".join([config.student, *config.more_students])
    what = f"preset {config.preset}, x{config.scale}, method {config.method}, student {students}"
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
            # A split that cannot work is refused now, not after images are decoded and teachers trained.
            check_layouts(local, resources)
            stores = prepare_images(local, output, tell)
            run = Run(local, output, console, tracker, resources, *stores)
            if config.plan_only:
                show_plan(run)
                status = "FINISHED"
                return
            rows = run_stages(run)
        tracker.run.metrics({f"psnr_y/{row['set']}/{row['model']}": row["psnr_y"] for row in rows})
        for name in ("config.yaml", "scores.json", *_weights(local)):
            tracker.run.artifact(output / name)
        register_students(run, rows)
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
    console.print(summary(rows, run.seconds, _files(place, output, _weights(local)), run.limits))


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
        or f"mlflow ui --backend-store-uri sqlite:///{output / 'mlflow.db'}",
    }


if __name__ == "__main__":
    sys.exit(main())
