"""What went wrong, in one line: Ray wraps an error of a worker in tracebacks of every process that it passed."""

from __future__ import annotations

import re


def root_cause(error: BaseException) -> str:
    """`ValueError: ...`, the innermost error that Ray's text tells of; the whole story is in the log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"^(\w+\.)+(\w+): ", r"\2: ", lines[-1]) if lines else repr(error)
