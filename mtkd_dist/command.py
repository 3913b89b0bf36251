"""What commands that work in an output folder share: one at a time in a folder, its log, what all nodes must see."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from mtkd_dist.config.tree import Config
from mtkd_dist.data.remote import cache_folder
from mtkd_dist.habits import Habits, write_story
from mtkd_dist.models import aggregator_path
from mtkd_dist.pools.cluster import unseen
from mtkd_dist.pools.errors import ClusterError
from mtkd_dist.pools.placement import Resources
from mtkd_dist.stages.teacher_spec import parse_teachers


def work_in(
    output: Path, log: str, what: str, interrupted: str, habits: Habits, work: Callable[[Console], object]
) -> object:
    """Do `work` as the only command in `output`; returns what it returns.

    The screen belongs to the console that `work` gets; all else that is printed goes to the file `log` in `output`, and
    so does the traceback of what goes wrong.

    Args:
        what: a noun, such as "launch".
        interrupted: what to say after Ctrl-C.

    Errors: those of `work`; KeyboardInterrupt with `interrupted`, and before it what it was raised with.
    """

    def busy() -> None:
        # Two of them in one folder would mix their checkpoints.
        raise ValueError(f"output: another {what} is at work in {output}; wait for it, or give --output")

    try:
        with habits.log_at(output / log) as console:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
            with alone_in(output, busy):
                return work(console)
    except KeyboardInterrupt as interrupt:
        said = " ".join(filter(None, ["Interrupted.", str(interrupt), interrupted]))
        raise KeyboardInterrupt(said) from interrupt
    except Exception as error:
        write_story(error, output / log)
        raise


def refuse_unseen(local: Config, output: Path, resources: Resources) -> None:
    """Workers on other nodes read and write the same paths. Errors: ClusterError naming a node that does not."""
    if resources.nodes == 1:
        return
    files = [spec.path for spec in parse_teachers(local.teachers)]
    files += [aggregator_path(local.aggregator), Path(local.student_weights) if local.student_weights else None]
    files += [Path(folder) if folder else None for folder in (local.images.cache, local.answers.folder)]
    for node, paths in unseen([output, *(path for path in files if path is not None and path.exists())]).items():
        raise ClusterError(
            f"node {node} of the cluster does not see {', '.join(paths)} of this machine; on several nodes, output and "
            "weights must lie on a file system that all of them share under the same path (copies of what URLs hold "
            f"lie below {cache_folder()}: set XDG_CACHE_HOME to a shared folder)"
        )


@contextlib.contextmanager
def alone_in(folder: Path, busy: Callable[[], object]) -> Iterator[None]:
    """As the only one in `folder`, which is made where it is not there; who is killed is in it no more.

    Where somebody is in it, `busy` is called; if that raises nothing, the block waits until it is free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            busy()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
