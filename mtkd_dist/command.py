"""What commands that work in an output folder share: exit statuses, one at a time in a folder, errors in words."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from mtkd_dist.pools.cluster import ClusterError
from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.placement import LayoutError
from mtkd_dist.report.screen import capture_output

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130
logger = logging.getLogger(__name__)


def work_in(output: Path, log: str, what: str, interrupted: str, work: Callable[[Console], None]) -> int:
    """Do `work` as the only command in `output`; returns the exit status.

    The screen belongs to the console that `work` gets; all else that is printed goes to the file `log` in `output`.
    What goes wrong is told in a sentence, with the traceback in the log.

    Args:
        what: a noun, such as "launch".
        interrupted: what to say after Ctrl-C.

    Errors: KeyboardInterrupt passes through.
    """
    with capture_output(output / log) as console:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
        try:
            with _alone_in(output, what):
                work(console)
        except KeyboardInterrupt:
            console.print(interrupted, highlight=False)
            raise
        except Exception as error:
            logger.exception("the %s failed", what)
            # Ours are written for people; of any other, the type says more than the text.
            ours = isinstance(error, (ValueError, ClusterError, TrainingFailed))
            text = str(error) if ours else f"{type(error).__name__}: {root_cause(error)}"
            console.print(f"error: {text}", style="bold red", markup=False, highlight=False)
            console.print(f"The whole story is in {output / log}", highlight=False)
            return EXIT_USAGE if isinstance(error, LayoutError) else EXIT_FAILED
    return EXIT_OK


@contextlib.contextmanager
def _alone_in(output: Path, what: str) -> Iterator[None]:
    """Two of them in one folder would mix their checkpoints. Errors: ValueError."""
    with (output / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"output: another {what} is at work in {output}; wait for it, or give --output") from None
        yield
