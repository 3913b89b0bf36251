"""`python -m mtkd_dist.evaluate`: how good models are on sets of photographs, by the protocol of the papers."""

from __future__ import annotations

import argparse
import csv
import functools
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
from rich.console import Console

from mtkd_dist.config.load import ConfigError
from mtkd_dist.config.tree import ClusterConfig
from mtkd_dist.data import find_photos
from mtkd_dist.habits import Habits, Parser, check_writable, command
from mtkd_dist.pools.cluster import cluster, sigterm_as_interrupt
from mtkd_dist.pools.evaluate import (
    ENSEMBLE_MARK,
    PERCEPTUAL,
    EvaluateJob,
    Extra,
    Scored,
    load_metrics,
    score_photos,
    score_photos_here,
)
from mtkd_dist.pools.photo_workers import worker_count
from mtkd_dist.report.counter import counter
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.report.tables import ScoreTable, markdown_table, scores_table, split_tables
from mtkd_dist.stages.inputs import fetched_set, fetched_weights
from mtkd_dist.stages.manifest import write_json, write_text
from mtkd_dist.stages.models_to_score import about_models, jobs_of, read_models
from mtkd_dist.stages.photos_to_score import (
    PhotoFile,
    named_folders,
    photos_of,
    scale_of_data,
    scales_of_models,
)
from mtkd_dist.stages.scores import Row, digits_of, mean_rows

EXTRAS: tuple[Extra, ...] = ("rgb", *PERCEPTUAL)
WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
EXAMPLE = """example:
  mtkd evaluate student.safetensors rlfn_x4.pth:name=RLFN --data Set5 Kodak24

Scores are of 8-bit images on Y of YCbCr, without a border of as many pixels as
the scale. LR is read where it lies beside HR, else made by MATLAB's bicubic.
"""


@dataclass(frozen=True)
class Work:
    """What one command is to do, checked."""

    jobs: list[EvaluateJob]
    photos: list[PhotoFile]
    workers: int | None
    """As many as asked for; None: one a device that Ray knows of."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`mtkd_dist.habits`)."""
    return command(argv, _main, json_file=True)


def _main(words: list[str], habits: Habits) -> object:
    flags = parser().parse_args(words)
    with habits.scratch_log("evaluate") as console:
        return _evaluate(flags, habits.json_file, console)


class _Parser(Parser):
    def error(self, message: str) -> NoReturn:
        super().error(f"{message} (models come before --data)" if "MODEL" in message else message)


def parser() -> Parser:
    """What `--help` shows."""
    parser = _Parser(
        "mtkd evaluate",
        "Score super-resolution models on photographs.",
        EXAMPLE,
        usage="%(prog)s MODEL... --data DIR... [FLAGS]",
    )
    add = parser.add_argument_group().add_argument  # what it scores and how, in one list
    add("models", nargs="+", metavar="MODEL", help="RUN, FILE[:name=X,input_range=255], or bicubic")
    add("--data", nargs="+", required=True, metavar="DIR", help="folders of photographs, DIR or NAME=DIR")
    add("--scale", type=_at_least(2), metavar="N", help="only where neither model nor data tells it")
    add("--rgb", action="store_true", help="also PSNR and SSIM on RGB (mean over channels)")
    add("--lpips", action="store_true", help="also LPIPS (VGG16), lower is better; needs piq")
    add("--dists", action="store_true", help="also DISTS, lower is better; needs piq")
    add("--self-ensemble", action="store_true", help="also as NAME+, the mean over 8 flips and rotations")
    add("--workers", type=_at_least(1), metavar="N", help="default: one a GPU, or one a core")
    add("--csv", type=Path, metavar="FILE", help="write the scores of each photograph")
    add("--json", nargs="?", metavar="FILE", help="write the rows of the table; without FILE to stdout")
    add("--markdown", type=Path, metavar="FILE", help="write the table in Markdown")
    return parser


def _evaluate(flags: argparse.Namespace, json_file: Path | None, console: Console) -> list[Row]:
    """Returns the rows of the table."""
    asked = {"csv": flags.csv, "json": json_file, "markdown": flags.markdown}
    outputs = {name: path for name, path in asked.items() if path is not None}
    _check_outputs(outputs)
    tell = functools.partial(console.print, markup=False, highlight=False)
    folders = named_folders([fetched_set(entry, tell) for entry in flags.data])
    candidates = read_models([fetched_weights(entry, tell) for entry in flags.models])
    scales = scales_of_models({candidate.file: candidate.scale for candidate in candidates}, flags.scale) or [
        scale_of_data({name: find_photos(folder).scales for name, folder in folders.items()})
    ]
    extra = tuple(name for name in EXTRAS if getattr(flags, name))
    photos = photos_of(folders, scales, extra)
    # Here only to be sure of them: a worker loads its own, and a download that fails is told before the long work.
    load_metrics(extra, torch.device("cpu"))
    work = Work(jobs_of(candidates, scales, extra, flags.self_ensemble), photos, flags.workers)
    console.print(f"photographs  {_in_words(photos)}", soft_wrap=True, markup=False, highlight=False)
    scored: list[Scored] = []
    # Closed here: Ray must end while what it prints still goes to the log, also after Ctrl-C.
    with closing(_scores(work)) as scores, counter(console, "photographs", len(photos)) as advance:
        for photo in scores:
            scored.append(photo)
            advance()
    rows = mean_rows(scored, about_models(candidates))
    tables = split_tables(rows, ensembles={candidate.model.name + ENSEMBLE_MARK for candidate in candidates})
    with even_if_quiet(console):
        for table in tables:
            console.print(scores_table(table.rows, table.metrics, table.caption))
    _write(outputs, scored, rows, tables)
    for name, path in outputs.items():
        console.print(f"{name}  {path}", soft_wrap=True, markup=False, highlight=False)
    return rows


def _in_words(photos: list[PhotoFile]) -> str:
    """`5 of Set5 at x2 (LR read)`, for each set and scale."""
    counts = Counter((photo.set, photo.scale, "made" if photo.photo.lr is None else "read") for photo in photos)
    return ", ".join(f"{count} of {name} at x{scale} (LR {lr})" for (name, scale, lr), count in counts.items())


def _scores(work: Work) -> Generator[Scored, None, None]:
    """In the order of the photographs. One worker is this process: Ray would take seconds to start for nothing."""
    if worker_count(len(work.photos), torch.cuda.device_count() or _cores(), work.workers) == 1:
        with sigterm_as_interrupt():
            yield from score_photos_here(work.jobs, work.photos)
        return
    with cluster(ClusterConfig(dashboard=False)) as resources, sigterm_as_interrupt():
        yield from score_photos(work.jobs, work.photos, resources, workers=work.workers)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is not possible; expected {least} or more")
        return value

    return number


def _check_outputs(outputs: dict[str, Path]) -> None:
    """Nobody shall learn after an hour that the scores cannot be written. Errors: ConfigError."""
    for name, path in outputs.items():
        if path.suffix in WEIGHTS:  # --json MODEL, meant as --json and MODEL
            raise ConfigError(f"--{name} {path} would write over a file of weights; put the models first")
        if [other for other in outputs.values() if other.resolve() == path.resolve()] != [path]:
            raise ConfigError(f"--{name} {path}: another output goes to the same file; give each its own")
        if path.is_dir() or not path.parent.is_dir():
            found = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise ConfigError(f"--{name} {path} cannot be written: {found}")
        check_writable(path.parent, f"--{name} {path}")


def _write(outputs: dict[str, Path], scored: list[Scored], rows: list[Row], tables: list[ScoreTable]) -> None:
    if path := outputs.get("csv"):
        write_text(path, _csv(scored))
    if path := outputs.get("json"):
        write_json(path, rows)
    if path := outputs.get("markdown"):
        write_text(path, "\n\n".join(f"{t.caption}\n\n{markdown_table(t.rows, t.metrics)}" for t in tables) + "\n")


def _csv(scored: list[Scored]) -> str:
    """One line for each photograph, scale and model."""
    lines: list[dict[str, object]] = []
    for photo in scored:
        for model, metrics in photo.scores.items():
            rounded = {metric: round(value, digits_of(metric)) for metric, value in metrics.items()}
            line = {"set": photo.set, "image": photo.image, "scale": photo.scale, "model": model}
            lines.append(line | rounded)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
