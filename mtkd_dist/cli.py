"""`mtkd COMMAND ...`: all commands under one name. `mtkd launch` is `python -m mtkd_dist.launch`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from mtkd_dist import __version__
from mtkd_dist.config.load import nearest
from mtkd_dist.habits import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, FLAGS
from mtkd_dist.report.screen import print_line

COMMANDS = {
    "launch": ("mtkd_dist.launch", "train teachers, aggregate, distil, evaluate"),
    "compare": ("mtkd_dist.compare.command", "methods x students x seeds on the same plan"),
    "tune": ("mtkd_tune.sweep", "search settings; the same as python -m mtkd_tune"),
    "evaluate": ("mtkd_dist.evaluate", "score models on sets of photographs"),
    "upscale": ("mtkd_dist.upscale.command", "enlarge pictures with a student"),
    "export": ("mtkd_dist.export.command", "a student as safetensors, ONNX, torch.export, with a model card"),
    "report": ("mtkd_dist.report_run", "one page about a run, to look at and to send around"),
    "verify-run": ("mtkd_dist.verify_run", "was each sample of a run learned from exactly once?"),
    "doctor": ("mtkd_dist.doctor.command", "is this machine ready for a run, and if not, what mends it?"),
    "completion": ("mtkd_dist.completion", "what makes a shell complete commands and flags"),
}
"""Name -> module with `main` and `parser`, what it does. By name, so that a command loads nothing of the others; and
`mtkd_tune` lies on a floor above this one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the rest of the words to the command that the first one names; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        try:
            command = importlib.import_module(COMMANDS[words[0]][0])
        except KeyboardInterrupt:  # torch takes seconds to load, and nothing was begun
            return EXIT_INTERRUPTED
        status: int = command.main(words[1:])
        return status
    if words[:1] == ["--version"]:
        print_line(f"mtkd-dist {__version__}")
        return EXIT_OK
    if words and words[0] not in ("-h", "--help"):
        unknown = f"error: unknown command {words[0]!r}.{nearest(words[0], COMMANDS)} `mtkd --help` lists them."
        print_line(unknown, sys.stderr)
        return EXIT_USAGE
    print_line(_help())
    return EXIT_OK


def _help() -> str:
    commands = [f"  {name:12} {what}" for name, (_, what) in COMMANDS.items()]
    flags = [f"  {flag:12} {what}" for flag, what in FLAGS.items()]
    return "\n".join(
        [
            "usage: mtkd COMMAND [FLAGS]",
            *commands,
            "",
            "flags of all commands:",
            *flags,
            "",
            "`mtkd COMMAND --help` shows the flags of a command. An example:",
            "  mtkd upscale photo.jpg --model student.safetensors --output large",
            "",
            "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.",
            "Ctrl-C once finishes the step that a training is at and saves; twice stops.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
