"""`mtkd completion SHELL`: the script by which a shell completes commands, flags and their choices, made by shtab."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import shtab

from mtkd_dist.cli import COMMANDS
from mtkd_dist.config.load import SHORT, settings_of
from mtkd_dist.habits import Habits, Parser, add_flags, command
from mtkd_dist.report.screen import print_line

EXAMPLE = """example:
  mtkd completion bash > ~/.local/share/bash-completion/completions/mtkd

bash  mtkd completion bash > ~/.local/share/bash-completion/completions/mtkd
zsh   mtkd completion zsh > ~/.zfunc/_mtkd   (with fpath+=~/.zfunc in .zshrc)
fish  mtkd completion fish > ~/.config/fish/completions/mtkd.fish

The next shell knows it. Again after an update of mtkd-dist.
"""
# bash takes what follows a list of files for another file, also where it begins with --; its own completion does not.
_FILES = {shell: files for shell, files in shtab.FILE.items() if shell != "bash"}
_BASH_FILES = "complete -o bashdefault -o default -F _shtab_mtkd mtkd"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status (`mtkd_dist.habits`)."""
    return command(argv, _main)


def parser() -> Parser:
    """What `--help` shows."""
    parser = Parser("mtkd completion", "Print what makes a shell complete commands, flags and choices.", EXAMPLE)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose script to print")
    return parser


def _main(words: list[str], habits: Habits) -> object:
    shell = parser().parse_args(words).shell
    script = script_of(shell)
    if not habits.json:
        print_line(script)
    return {"shell": shell, "script": script}


def script_of(shell: str) -> str:
    everything = argparse.ArgumentParser("mtkd")
    everything.add_argument("--version", action="store_true", help="show the version")
    commands = everything.add_subparsers()
    for name, (module, what) in COMMANDS.items():
        add_all(commands.add_parser(name, help=what), importlib.import_module(module))
    script = shtab.complete(everything, shell)
    return f"{script}\n{_BASH_FILES}" if shell == "bash" else script


def add_all(to: argparse.ArgumentParser, module: Any) -> None:
    """All flags of a command: those of its help, those of all commands, and every setting where it has `SETTINGS`."""
    shown = module.parser()
    for action in shown._actions:
        if not isinstance(action, argparse._HelpAction):
            to._add_action(action)
    known = {flag for action in shown._actions for flag in action.option_strings}
    json_file = "--json" in known
    common = argparse.ArgumentParser(add_help=False)
    add_flags(common, json_file)
    for action in common._actions:
        if not known.intersection(action.option_strings):
            to._add_action(action)
    if hasattr(module, "SETTINGS"):
        for key, kind in settings_of(*module.SETTINGS).items():
            flag = "--" + key.replace("_", "-")
            if flag not in known:
                to.add_argument(flag, **_takes(kind))
        for flag in [*SHORT, "--print-config"]:
            to.add_argument(flag, nargs="?" if flag == "--print-config" else None)
    for action in to._actions:
        if action.nargs != 0 and action.choices is None and action.type in (None, str, Path):
            many = action.option_strings and action.nargs is not None
            action.complete = _FILES if many else shtab.FILE  # type: ignore[attr-defined]


def _takes(kind: Any) -> dict[str, Any]:
    """Type of a setting -> how argparse knows what may follow its flag."""
    many = get_origin(kind) is list
    one = get_args(kind)[0] if many else kind
    choices = get_args(one) if get_origin(one) is Literal else ("true", "false") if one is bool else None
    # A switch may stand without a value.
    nargs = "+" if many else "?" if one is bool else None
    free = one is str or str in get_args(one)
    return {"nargs": nargs, "choices": choices, "type": None if choices or free else int}
