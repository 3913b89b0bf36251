"""`mtkd COMMAND ...`: all commands under one name. `mtkd launch` is `python -m mtkd_dist.launch`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from mtkd_dist import __version__, evaluate, launch, verify_run
from mtkd_dist.compare import command as compare
from mtkd_dist.config.load import nearest
from mtkd_dist.upscale import command as upscale

COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "launch": (launch.main, "train teachers, aggregate, distil, evaluate"),
    "compare": (compare.main, "methods x students x seeds on the same plan, with intervals"),
    "evaluate": (evaluate.main, "score models on sets of photographs"),
    "upscale": (upscale.main, "enlarge pictures with a student"),
    "verify-run": (verify_run.main, "was each sample of a run learned from exactly once?"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the rest of the words to the command that the first one names; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]][0](words[1:])
    if words[:1] == ["--version"]:
        print(f"mtkd-dist {__version__}")
        return 0
    lines = ["usage: mtkd COMMAND [FLAGS]", *(f"  {name:12} {help_text}" for name, (_, help_text) in COMMANDS.items())]
    if words and words[0] not in ("-h", "--help"):
        print(f"mtkd: unknown command {words[0]!r}.{nearest(words[0], COMMANDS)}", *lines, sep="\n", file=sys.stderr)
        return 2
    print(*lines, "`mtkd COMMAND --help` lists the flags of a command.", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
