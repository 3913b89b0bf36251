"""`mtkd upscale`: pictures in files, each enlarged by a network into another file."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import ClusterConfig
from mtkd_dist.habits import EXIT_FAILED, EXIT_OK, Habits, Parser, Result, check_writable, command
from mtkd_dist.pictures import FORMATS, Upscaler, format_named, load_upscaler
from mtkd_dist.pictures.files import QUALITY
from mtkd_dist.pictures.tiles import SMALLEST
from mtkd_dist.pools.cluster import cluster, sigterm_as_interrupt
from mtkd_dist.pools.photo_workers import worker_count
from mtkd_dist.pools.teacher_worker import TeacherFile
from mtkd_dist.pools.upscale import Failure, PictureFile, UpscaleJob, upscale_here, upscale_on_workers
from mtkd_dist.report.counter import Advance, counter
from mtkd_dist.report.screen import even_if_quiet, print_line
from mtkd_dist.stages.inputs import fetched_weights
from mtkd_dist.stages.models_to_score import weight_file
from mtkd_dist.upscale.files import check_targets, existing, files_to_make, names_picture, without_results

FEW = 16
"""Of fewer pictures than this, Ray would take longer to start than it saves."""
EXAMPLE = """example:
  mtkd upscale holiday 'scans/*.tif' --model student.safetensors --output large

16 bits, transparency, colour profile and EXIF stay where the format has them.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`mtkd_dist.habits`): 1 also where one of the files failed."""
    return command(argv, _main)


def _main(words: list[str], habits: Habits) -> Result:
    flags = parser().parse_args(words)
    # What Ray, libvips and workers print is no matter of the screen.
    with habits.scratch_log("upscale") as console:
        document, failures = _upscale(flags, console)
    for failure in failures:
        more = failure.traceback if habits.debug else ""
        print_line(f"{more}error: {failure.text}", sys.stderr)
    return Result(document, EXIT_FAILED if failures else EXIT_OK)


def parser() -> argparse.ArgumentParser:
    """What `--help` shows."""
    parser = Parser(
        "mtkd upscale",
        "Enlarge pictures with a student, or with any teacher.",
        EXAMPLE,
        usage="%(prog)s IN... --model FILE --output DIR [FLAGS]",
    )
    group = parser.add_argument_group()  # what to enlarge and how, in one list
    add = group.add_argument
    add("inputs", nargs="+", metavar="IN", help="files, folders (with subfolders) and patterns")
    add("--model", required=True, metavar="FILE", help="RUN, or FILE[:input_range=255]")
    add("--output", required=True, type=_folder, metavar="DIR", help="where to: a folder, or the name of one picture")
    add(
        "--format",
        type=format_named,
        choices=[*FORMATS],
        metavar="NAME",
        help="png, jpg, webp or tif; default: as each file is",
    )
    add("--suffix", type=_suffix, default="", metavar="TEXT", help="goes between name and ending, such as _x4")
    add("--quality", type=_between(1, 100), default=QUALITY, metavar="N", help=f"of JPEG and WebP (default: {QUALITY})")
    there = group.add_mutually_exclusive_group()
    there.add_argument("--force", action="store_true", help="write over what is there already")
    there.add_argument("--skip-existing", action="store_true", help="leave what is there as it is, and go on")
    add("--self-ensemble", action="store_true", help="better, and takes 8 times as long")
    add("--tile", type=_between(SMALLEST, 1 << 20), metavar="N", help="side of tiles in pixels; default: what fits")
    add("--workers", type=_between(1, 1 << 20), metavar="N", help="default: one a GPU or core, if there are many")
    return parser


def _folder(text: str) -> Path:
    if not text.strip():  # Path("") is the current folder
        raise argparse.ArgumentTypeError(f"{text!r} is no folder; is a variable of the shell not set?")
    return Path(text)


def _suffix(text: str) -> str:
    if os.sep in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no part of a file's name; expected one without {os.sep!r}")
    return text


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not possible; expected a number from {least} to {most}")
        return int(text)

    return number


def _upscale(flags: argparse.Namespace, console: Console) -> tuple[dict[str, Any], list[Failure]]:
    """What `--json` prints, and what went wrong with single pictures.

    Errors: ConfigError; KeyboardInterrupt that says what is done.
    """
    tell = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    model = weight_file(fetched_weights(flags.model, tell))
    upscaler = _loaded(model)
    files = files_to_make(flags.inputs, flags.output, flags.format, flags.suffix)
    files = files if flags.force else without_results(files)
    check_targets(files, flags.force or flags.skip_existing)
    check_writable(flags.output.parent if names_picture(flags.output) else flags.output, f"--output {flags.output}")
    done_before = set(existing(files)) if flags.skip_existing else set()
    files = [file for file in files if file.target not in done_before]
    job = UpscaleJob(model, flags.self_ensemble, flags.tile, flags.quality, flags.force)
    tell(f"model     {model.path}: x{upscaler.scale}, on {upscaler.device.type}")
    before = f" ({len(done_before)} more are there already)" if done_before else ""
    tell(f"pictures  {len(files)} to {flags.output}{before}")
    written, failures = list[str](), list[Failure]()
    # Closed here: Ray must end while what it prints still goes to the log, also after Ctrl-C.
    with counter(console, "pictures", len(files)) as advance, closing(_results(job, files, flags, advance)) as results:
        try:
            for file, failure in results:
                written += [str(file.target)] if failure is None else []
                failures += [failure] if failure is not None else []
        except KeyboardInterrupt:
            many = f"{len(written)} of {len(files)} pictures"
            raise KeyboardInterrupt(f"Interrupted. {many} are done; {_how_to_go_on(flags.force)}.") from None
    with even_if_quiet(console):
        tell(f"done      {len(written)} of {len(files)} pictures")
    failed = [failure.text for failure in failures]
    return {"written": written, "failed": failed, "there_before": sorted(map(str, done_before))}, failures


def _loaded(model: TeacherFile) -> Upscaler:
    try:
        return load_upscaler(model.path, input_range=model.input_range)
    except ValueError as error:  # nothing was begun: another model is to be given
        raise ConfigError(str(error)) from None


def _how_to_go_on(forced: bool) -> str:
    if forced:
        return "the same command with --skip-existing in place of --force goes on, and leaves older files as they are"
    return "the same command with --skip-existing goes on"


def _results(
    job: UpscaleJob, files: Sequence[PictureFile], flags: argparse.Namespace, advance: Advance
) -> Generator[tuple[PictureFile, Failure | None], None, None]:
    """Each with what went wrong with it, or None; in this process, unless Ray saves more than its start takes."""
    if not files:
        return
    if _workers(len(files), flags.workers) == 1:
        progress = _Progress(advance)
        with sigterm_as_interrupt():
            for file, failure in zip(files, upscale_here(job, files, progress), strict=True):
                progress.next()
                yield file, failure
        return
    with cluster(ClusterConfig(dashboard=False)) as resources, sigterm_as_interrupt():
        for file, failure in upscale_on_workers(job, files, resources, flags.workers):
            advance()
            yield file, failure


def _workers(files: int, asked: int | None) -> int:
    if asked is None and files < FEW:
        return 1
    return worker_count(files, torch.cuda.device_count() or _cores(), asked)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Progress:
    """Turns "so much of this picture is done" into steps of a counter."""

    def __init__(self, advance: Advance) -> None:
        self._advance, self._share = advance, 0.0

    def __call__(self, share: float) -> None:
        self._advance(share - self._share)
        self._share = share

    def next(self) -> None:
        """The picture is done, or given up."""
        self(1.0)
        self._share = 0.0
