"""Room for the images of a sweep's aggregators, each in a folder of its own that lasts while trials need it.

They are a cache: who misses some renders them again. A trial holds a shared lock on those of its aggregator, which ends
with its process, however that ends. Where there is no room for another's, those that nobody holds go.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal as bytes_text

from mtkd_dist.command import alone_in
from mtkd_dist.data.teacher_outputs import folder_bytes
from mtkd_dist.stages.answers import SPARE_BYTES, Room

FOLDER = "aggregator-outputs"
"""In the folder of a sweep; apart from `answers.folder`, which other runs may share."""
_LOCK = ".held"


@contextlib.contextmanager
def holding(output: Path, key: str, size: int, answers: Path, max_bytes: int) -> Iterator[Path]:
    """Folder for the images of the aggregator `key`, with room for them; while the block lasts, nobody deletes them.

    Args:
        output: folder of the sweep.
        size: bytes of one aggregator's images; the same for all.
        answers: folder of the teachers' images, which take from the same `max_bytes`.

    Errors: ValueError where there is no room, though all is deleted that nobody holds.
    """
    root = output / FOLDER
    folder = root / key
    with contextlib.ExitStack() as stack:
        # Locks are taken only here and tried only here, so that nobody is taken for one who holds, and nobody waits.
        with alone_in(root, lambda: None):
            folder.mkdir(exist_ok=True)
            fcntl.flock(stack.enter_context((folder / _LOCK).open("w")), fcntl.LOCK_SH)
            _make_room(root, size, answers, max_bytes)
        yield folder


def forget_aggregates(output: Path) -> None:
    """Delete the images of all aggregators of the sweep in `output`, when no trial is left; its aggregators stay."""
    if (output / FOLDER).exists():
        shutil.rmtree(output / FOLDER)


def _make_room(root: Path, size: int, answers: Path, max_bytes: int) -> None:
    """Deletes images that nobody holds, those first that were asked for longest ago. Errors: ValueError."""
    folders = sorted((lock.parent for lock in root.glob(f"*/{_LOCK}")), key=lambda f: (f / _LOCK).stat().st_mtime_ns)
    held = [folder for folder in folders if _held(folder)]
    idle = [folder for folder in folders if folder not in held]
    while refusal := _refusal(root, held, size, answers, max_bytes):
        if not idle:
            raise ValueError(refusal)
        # File by file: after each, what is left is as good as an interrupted rendering.
        for image in idle.pop(0).glob("*/*.npy"):
            image.unlink()


def _refusal(root: Path, held: list[Path], size: int, answers: Path, max_bytes: int) -> str | None:
    """Of all that is held, also what is not rendered yet is counted: its room is promised."""
    there, of_teachers, free = folder_bytes(root), folder_bytes(answers), shutil.disk_usage(root).free
    needed = sum(max(0, size - folder_bytes(folder)) for folder in held)
    refusal = Room(needed, of_teachers + there, max_bytes, free).refusal(answers)
    if refusal is None:
        return None
    fits = max(0, min(max_bytes - of_teachers, free - SPARE_BYTES + there) // size)
    return (
        f"{refusal}. The images of one aggregator take {bytes_text(size)}, so those of {fits} fit at a time, and "
        f"{len(held)} trials with aggregators of their own run: a lower trial.concurrent helps, too"
    )


def _held(folder: Path) -> bool:
    with (folder / _LOCK).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
