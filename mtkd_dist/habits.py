"""What all commands have in common: exit statuses, flags, help of one screen, errors of one paragraph, results as JSON.

A command is a module with these, and an entry in `cli.py`:

    def main(argv: Sequence[str] | None = None) -> int:
        \"""Run the command; returns its exit status (`mtkd_dist.habits`).\"""
        return command(argv, _export)


    def parser() -> Parser:
        \"""What `--help` shows, in 23 lines at most, with an example; shells complete from it, too.\"""
        parser = Parser("mtkd export", "One sentence.", "example:\\n  mtkd export student.safetensors --output DIR")
        parser.add_argument("model", metavar="MODEL", help="...")
        return parser


    def _export(words: list[str], habits: Habits) -> object:
        flags = parser().parse_args(words)  # the words without those of `FLAGS`
        with habits.scratch_log("export") as console:  # where Ray, torch or workers may print; else habits.console()
            console.print("what goes on", markup=False, highlight=False)  # nothing with --quiet
            with even_if_quiet(console):  # of mtkd_dist.report.screen
                console.print("the result")
        return {"files": ["..."]}  # what --json prints; Result(document, EXIT_FAILED) where it is no success

`_export` raises what goes wrong: `ConfigError` for wrong usage; `ValueError`, `ClusterError` and `TrainingFailed` with
a sentence for people; `KeyboardInterrupt` with one where there is something to say. Before it has a console, it tells
by `habits.tell`. None of these fails where nobody reads what is printed; what is no line of a console goes through
`print_line` of mtkd_dist.report.screen for that.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from mtkd_dist.config.load import ConfigError
from mtkd_dist.pools.errors import ClusterError, TrainingFailed, is_of_ray, root_cause
from mtkd_dist.pools.placement import LayoutError
from mtkd_dist.report.screen import Teller, capture_output, print_line

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
"""Done; failed, or found that something is wrong; wrong usage, nothing was begun; interrupted."""
FLAGS = {
    "--quiet": "print errors and the final result only",
    "--verbose": "also print what Ray, torch and the workers log",
    "--json": "print the result as JSON on stdout, all else on stderr",
    "--debug": "print the traceback of an error",
}


@dataclass(frozen=True)
class Result:
    """What a command ends with where that is no plain success."""

    document: Any
    """What `--json` prints."""
    status: int = EXIT_OK


@dataclass(frozen=True)
class Habits:
    """The flags that all commands take."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    debug: bool = False
    json_file: Path | None = None
    """Of a command whose `--json` takes a file, too."""

    def tell(self, text: str) -> None:
        """A line for the screen, before there is a console."""
        self.console().print(text, markup=False, highlight=False, soft_wrap=True)

    def console(self) -> Console:
        """For a command beside which nobody else prints."""
        return Teller(stderr=self.json, quiet=self.quiet, emoji=False)

    def log_at(self, log: Path) -> AbstractContextManager[Console]:
        """A console, while all else that is printed goes to the end of the file `log`."""
        return capture_output(log, stderr=self.json, quiet=self.quiet, verbose=self.verbose)

    @contextmanager
    def scratch_log(self, name: str) -> Iterator[Console]:
        """The same with a temporary file, which is kept where it may help to find out what happened."""
        handle, path = tempfile.mkstemp(prefix=f"mtkd-{name}-", suffix=".log")
        os.close(handle)
        log, keep = Path(path), False
        try:
            with self.log_at(log) as console:
                yield console
        except Exception as error:
            keep = not is_for_people(error)
            if keep:
                write_story(error, log)
            raise
        finally:
            if not keep:
                log.unlink()


class _Strict(argparse.ArgumentParser):
    """As argparse's, but wrong usage is a ConfigError, and flags are given in full."""

    def __init__(self, **more: Any) -> None:
        super().__init__(add_help=False, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}. `--help` lists all flags.")


class Parser(_Strict):
    """The parser of a command, whose help ends with what all commands take.

    The help fits a terminal of 24 lines: no line tells of --help, and flags are rarely broken from what they mean.

    Args:
        ending: below the flags: an example, and what else one has to know.
    """

    def __init__(self, prog: str, description: str, ending: str, **more: Any) -> None:
        common = f"{', '.join(FLAGS)}: as of all commands (mtkd --help)"
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"{ending.rstrip()}\n\n{common}",
            formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=32),
            **more,
        )
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)

    def print_help(self, file: Any = None) -> None:
        print_line(self.format_help().rstrip("\n"), file)


def add_flags(parser: argparse.ArgumentParser, json_file: bool = False) -> None:
    """Those of `Habits`. `json_file`: whether `--json` takes a file, too."""
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("--quiet", action="store_true", help=FLAGS["--quiet"])
    loudness.add_argument("--verbose", action="store_true", help=FLAGS["--verbose"])
    if json_file:
        parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help=f"{FLAGS['--json']}; or into a file")
    else:
        parser.add_argument("--json", action="store_const", const="-", help=FLAGS["--json"])
    parser.add_argument("--debug", action="store_true", help=FLAGS["--debug"])


def take_flags(words: Sequence[str], json_file: bool = False) -> tuple[Habits, list[str]]:
    """The habits that `words` ask for, and the other words in their order. Errors: ConfigError."""
    parser = _Strict()
    add_flags(parser, json_file)
    flags, rest = parser.parse_known_args(words)
    file = None if flags.json in (None, "-") else Path(flags.json)
    return Habits(flags.quiet, flags.verbose, flags.json == "-", flags.debug, file), rest


def command(argv: Sequence[str] | None, work: Callable[[list[str], Habits], object], *, json_file: bool = False) -> int:
    """Do `work` with the words of a command line (None: of this process) and tell how it ends; returns the exit status.

    `work` returns a `Result`, or the document that `--json` prints. Errors: SystemExit, after `--help`.
    """
    habits = Habits()
    try:
        habits, words = take_flags(sys.argv[1:] if argv is None else argv, json_file)
        done = work(words, habits)
    except KeyboardInterrupt as interrupt:
        return _end(habits, str(interrupt), EXIT_INTERRUPTED)
    except Exception as error:
        if habits.debug:
            traceback.print_exception(error)
        status = EXIT_USAGE if isinstance(error, (ConfigError, LayoutError)) else EXIT_FAILED
        return _end(habits, f"error: {in_words(error, habits.debug)}", status)
    result = done if isinstance(done, Result) else Result(done)
    if habits.json:
        print_line(json.dumps(_plain(result.document), indent=2, default=str))
    return result.status


def show_help(words: Sequence[str], brief: Parser) -> list[str]:
    """For a command that lists its many settings by `--help-all`: what to hand to the parser of all of them.

    Prints `brief` and raises SystemExit for `--help`.
    """
    if "--help" in words or "-h" in words:
        brief.print_help()
        raise SystemExit(EXIT_OK)
    return ["--help" if word == "--help-all" else word for word in words]


def check_writable(folder: Path, given: str) -> None:
    """Makes the folder, so that nobody learns after hours of work that its result has no place.

    `given`: the words that named it, such as `--output DIR`. Errors: ConfigError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"{given} cannot be written: {error.strerror}") from None


def is_for_people(error: BaseException) -> bool:
    """Whether its text is a sentence that says what to do; of any other error, the type says more than the text."""
    return isinstance(error, (ValueError, ClusterError, TrainingFailed)) and not is_of_ray(error)


def in_words(error: Exception, debug: bool = False) -> str:
    """A paragraph, and where to find more. `debug`: whether the traceback is shown already."""
    for_people = is_for_people(error)
    text = str(error) if for_people else _with_type(error)
    more = [*getattr(error, "__notes__", []), *([] if for_people or debug else ["--debug shows the traceback"])]
    return "\n".join([text, *([". ".join(more)] if more else [])])


def _with_type(error: Exception) -> str:
    """Of an error that Ray hands on, the type is in the text already."""
    return root_cause(error) if is_of_ray(error) else f"{type(error).__name__}: {root_cause(error)}"


def write_story(error: Exception, log: Path) -> None:
    """Its traceback goes to the log, and where that is into what the command says of it."""
    with log.open("a", encoding="utf-8") as text:
        traceback.print_exception(error, file=text)
    error.add_note(f"The whole story is in {log}")


def _end(habits: Habits, text: str, status: int) -> int:
    if text:
        style = None if status == EXIT_INTERRUPTED else "bold red"
        Teller(stderr=True, emoji=False).print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    if habits.json:
        print_line(
            json.dumps({"error": text.removeprefix("error: ") or "interrupted", "exit_status": status}, indent=2)
        )
    return status


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
