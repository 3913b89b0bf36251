"""What went wrong, in few words: Ray wraps an error of a worker in tracebacks of every process that it passed."""

from __future__ import annotations

import re

LINES = 6
"""Of a message of many lines, the first ones are told."""


class TrainingFailed(RuntimeError):
    """A pool failed for good; the message is the first cause."""


class ClusterError(RuntimeError):
    """Ray could not be reached; the message says what was tried."""


def root_cause(error: BaseException) -> str:
    """`ValueError: ...`, the last error that Ray's text tells of; the whole story is in the log."""
    text = str(error).strip()
    # Tracebacks are indented; the line that names an error is not.
    named = list(re.finditer(r"^(?:\w+\.)*([A-Z]\w*): ", text, re.MULTILINE))
    if named:
        text = f"{named[-1][1]}: {text[named[-1].end() :]}"
    return "\n".join(text.splitlines()[:LINES]) or repr(error)


def is_of_ray(error: BaseException) -> bool:
    """Also of an error of a worker that Ray hands on as one of the worker's own type: its text is a traceback."""
    return any(kind.__module__.partition(".")[0] == "ray" for kind in type(error).__mro__)
