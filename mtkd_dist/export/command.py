"""`mtkd export`: a student as files that other programs read, each checked, and the card that goes with them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from mtkd_dist.config.load import ConfigError
from mtkd_dist.export.card import card
from mtkd_dist.export.catalogue import ARCHITECTURES, Resource, entry, to_text
from mtkd_dist.export.files import appear_together
from mtkd_dist.export.onnx_file import INPUT, OPSET, OUTPUT, PACKAGES, missing_packages, write_onnx
from mtkd_dist.export.program_file import write_program
from mtkd_dist.export.publication import Publication, architecture, listed, metadata
from mtkd_dist.export.safetensors_file import by_mtkd_dist, by_spandrel, write_safetensors
from mtkd_dist.export.source import Source, file_stem, read_source
from mtkd_dist.export.trace import CHECKED, trace
from mtkd_dist.habits import Habits, Parser, check_writable, command
from mtkd_dist.models import digest_file
from mtkd_dist.report.screen import even_if_quiet
from mtkd_dist.report.tables import parameters_text
from mtkd_dist.stages.manifest import write_text

FILES = {"safetensors": (".safetensors",), "onnx": (".onnx",), "program": (".pt2",), "card": (".md", ".json")}
"""Format -> the endings of what it writes."""
EXAMPLE = """example:
  mtkd export runs/demo --author me --licence CC-BY-NC-4.0 --output exported

safetensors  weights, with all that is known of them; for mtkd-dist and spandrel
onnx         for onnxruntime; any height, width and batch size
program      the same of torch.export, for torch without mtkd-dist
card         what the model is: Markdown, and an entry of OpenModelDB
The files appear together, once each answers as the network does.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`mtkd_dist.habits`)."""
    return command(argv, _main)


class _Parser(Parser):
    def error(self, message: str) -> NoReturn:
        word = re.search(r"--formats: invalid choice: '(.*?)'", message)
        # No format has a dot or a folder in its name, as the files of models do.
        is_model = word is not None and (bool({".", os.sep} & {*word[1]}) or Path(word[1]).exists())
        super().error(f"{message}{' (MODEL comes before --formats)' if is_model else ''}")


def parser() -> Parser:
    """What `--help` shows."""
    parser = _Parser(
        "mtkd export",
        "Write a student, or any weight file, for others to use.",
        EXAMPLE,
        usage="%(prog)s MODEL [FLAGS]",
    )
    add = parser.add_argument_group().add_argument  # what to export and how, in one list
    add("model", metavar="MODEL", help="folder of a run, or FILE[:name=X,input_range=255]")
    add("--output", type=Path, default=Path("exported"), metavar="DIR", help="default: exported")
    add("--formats", nargs="+", choices=FILES, default=list(FILES), metavar="F", help="default: all (below)")
    add("--name", metavar="NAME", help="default: that of the run or of the file")
    add("--author", metavar="NAME", help="who publishes it")
    add("--licence", metavar="SPDX", help="such as CC-BY-NC-4.0; those of teachers hold, too")
    add("--license", metavar="SPDX", dest="licence", help=argparse.SUPPRESS)  # as Americans write it
    add("--url", metavar="URL", help="where the files will lie, for the catalogue")
    add("--force", action="store_true", help="write over files that are there")
    return parser


def _main(words: list[str], habits: Habits) -> dict[str, Any]:
    flags = parser().parse_args(words)
    try:
        return _export(flags, habits.console())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted. Files appear together when all are done: {flags.output} is as it was. The same command "
            "begins anew."
        ) from None


def _export(flags: argparse.Namespace, console: Console) -> dict[str, Any]:
    _require_packages(flags.formats)
    source = read_source(flags.model)
    publication = Publication(flags.name or source.name, flags.author, flags.licence, flags.url)
    stem = file_stem(publication.name, source.network.scale)
    files = {kind: [flags.output / f"{stem}{end}" for end in FILES[kind]] for kind in flags.formats}
    _refuse_existing(list(chain(*files.values())), flags.force)
    check_writable(flags.output, f"--output {flags.output}")
    network = source.network
    what = f"{network.architecture}, x{network.scale}, {parameters_text(network.params)} parameters"
    _tell(console, f"model        {source.file}: {what}")
    for why in dict.fromkeys(source.unknown.values()):
        unknown = listed([key for key, reason in source.unknown.items() if reason == why])
        _tell(console, f"not known    {unknown}: {why}")
    with appear_together(flags.output) as fresh:
        notes = _write_networks(source, publication, fresh / stem, flags.formats, console)
        lacks = _write_card(source, publication, fresh / stem, notes) if "card" in files else ""
    with even_if_quiet(console):
        for kind, note in notes.items():
            (file,) = files[kind]
            _tell(console, f"{kind:12} {file} ({file.stat().st_size / 1e6:.1f} MB): {note}")
        if "card" in files:
            _tell(console, f"card         {', '.join(map(str, files['card']))} (OpenModelDB{lacks})")
    written = [str(file) for file in chain(*files.values())]
    return {"model": str(source.file), "files": written, "read_by": notes, "not_known": source.unknown}


def _tell(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _require_packages(formats: Sequence[str]) -> None:
    missing = missing_packages() if "onnx" in formats else []
    if missing:
        others = " ".join(kind for kind in FILES if kind != "onnx")
        raise ConfigError(
            f"--formats onnx needs {', '.join(PACKAGES)}, and {', '.join(missing)} "
            f'{"is" if len(missing) == 1 else "are"} not installed: pip install "mtkd-dist[export]", or leave it out: '
            f"--formats {others}"
        )


def _refuse_existing(files: Sequence[Path], force: bool) -> None:
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise ConfigError(
            f"{', '.join(there)} {'are' if there[1:] else 'is'} there already; give --force to write over "
            f"{'them' if there[1:] else 'it'}, another --output or another --name"
        )


def _write_networks(
    source: Source, publication: Publication, stem: Path, formats: Sequence[str], console: Console
) -> dict[str, str]:
    """Returns who reads which of the written files: format -> a phrase."""
    module, scale = source.network.module, source.network.scale
    told = metadata(source, publication)
    notes: dict[str, str] = {}
    if "safetensors" in formats:
        path = _path(stem, "safetensors")
        write_safetensors(path, source, told)
        notes["safetensors"] = f"{by_mtkd_dist(path, source)}; {by_spandrel(path, source)}"
    if not {"onnx", "program"} & {*formats}:
        return notes
    with console.status("following the network; minutes for large ones"):
        program = trace(module, architecture(source))
    sizes = " and ".join(f"{height}x{width}" for _, _, height, width in CHECKED)
    if "onnx" in formats:
        with console.status("onnx"):
            difference = write_onnx(_path(stem, "onnx"), program, module, scale, told)
        tensors = f"opset {OPSET}, `{INPUT}` (batch,3,height,width) to `{OUTPUT}`"
        notes["onnx"] = f"onnxruntime reads it; {tensors}; differs by at most {difference:.1g} at {sizes}"
    if "program" in formats:
        with console.status("program"):
            difference = write_program(_path(stem, "program"), program, module, told)
        notes["program"] = f"torch.export.load reads it; differs by at most {difference:.1g} at {sizes}"
    return notes


def _path(stem: Path, kind: str) -> Path:
    return stem.with_name(stem.name + FILES[kind][0])


def _write_card(source: Source, publication: Publication, stem: Path, notes: dict[str, str]) -> str:
    """Returns a phrase on what keeps its entry out of the catalogue, or nothing."""
    files = {kind: _path(stem, kind) for kind in notes}
    resources = [Resource(file.name, kind, file.stat().st_size, digest_file(file)) for kind, file in files.items()]
    date = datetime.now(UTC).date().isoformat()
    model = entry(source, publication, resources, date)
    for end, text in ((".md", card(source, publication, resources, notes, date)), (".json", to_text(model))):
        write_text(stem.with_name(stem.name + end), text)
    lacking = {
        "--author": publication.author,
        "--licence": publication.licence,
        "--url": publication.url,
        "a format with weights": model["resources"],
    }
    missing = ", ".join(name for name, value in lacking.items() if not value)
    lacks = f"; lacks {missing}" if missing else ""
    stranger = model["architecture"] not in ARCHITECTURES
    return lacks + (f"; {model['architecture']} is none of its architectures yet" if stranger else "")


if __name__ == "__main__":
    sys.exit(main())
