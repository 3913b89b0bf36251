"""The checkpoints of one training: whole or not there, checked when read, written while training goes on.

They are our own, and not Ray Train's: its `report` is a barrier, and a rank that dies right after it loses the
checkpoint that it brought.
"""

from __future__ import annotations

import copy
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mtkd_dist.models import read_metadata

BEST = "best.safetensors"
"""In the folder of the checkpoints: the weights of the best validation so far, with step and score as metadata."""
LAST_SECONDS = 300.0
"""So long the last checkpoint of a training, without which it has no result, is tried again."""
PAUSE_SECONDS = 5.0
"""Between two tries."""
TORN = ".torn"
"""Behind the name of a checkpoint that is not as it was written."""
READ_BYTES = 1 << 20
DIGEST_BYTES = 64
"""SHA-256 in hexadecimal: no byte of it can be taken for the mark by which readers of zip find its end."""


class CheckpointError(RuntimeError):
    """The last checkpoint of a training could not be written."""


class Superseded(RuntimeError):
    """A later attempt has taken over: nothing of this one counts any more, and none of its files may appear."""


def expired(steps: Collection[int], keep: int, best: int | None) -> set[int]:
    """Of the checkpoints after `steps`, those that go: all but the `keep` (at least 1) newest and the one at `best`."""
    return set(steps) - set(sorted(steps)[-keep:]) - {best}


class Checkpoints:
    """`step-000400.pt` in a folder, each ending with the SHA-256 of all that is before.

    In the file itself, so that one rename brings both: a writer of an earlier attempt that wakes up after its check
    puts a whole checkpoint in the place of another, of the same samples, and never its digest beside other weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06}.pt"

    def steps(self) -> list[int]:
        """Ascending; whether they are whole is another question."""
        return sorted(_step_of(path) for path in self.folder.glob("step-*.pt"))

    def newest(self, say: Callable[[str], None]) -> int | None:
        """Step of the newest one that is as it was written, or None.

        One that is not is put aside, and `say` is told: were it found whole later, two histories would mix.

        Errors: OSError where one cannot be read; that says nothing about it, and it stays where it is.
        """
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                if _is_whole(path):
                    return step
                aside = path.with_name(path.name + TORN)
                os.replace(path, aside)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"the checkpoint {path} cannot be read ({error.strerror}), so it is not known where to go on; the "
                    "same command tries again",
                ) from error
            say(
                f"the checkpoint {path} is torn or corrupted (its SHA-256 differs): it is now {aside.name}, and the "
                "one before is taken"
            )
        return None

    def load(self, step: int, device: torch.device) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.path(step), map_location=device, weights_only=True)
        return state

    def write(self, step: int, state: dict[str, Any], attempt: int, may_write: Callable[[], None]) -> None:
        """Whole or not at all. `may_write` raises where `attempt` is not the latest. Errors: OSError, Superseded."""
        path, temporary = self.path(step), self._temporary(step, attempt)
        try:
            with temporary.open("wb") as file:
                hashing = _Hashing(file)
                torch.save(state, hashing)  # type: ignore[arg-type]
                hashing.check()
                file.write(hashing.digest)
                _to_disk(file)
            may_write()
            os.replace(temporary, path)
        except FileNotFoundError:
            may_write()  # a later attempt has swept it away
            raise
        finally:
            temporary.unlink(missing_ok=True)
        _folder_to_disk(self.folder)

    def sweep(self) -> None:
        """Remove what earlier attempts left half-written; one of them that is still at it fails by that."""
        for temporary in self.folder.glob("step-*.tmp"):
            temporary.unlink(missing_ok=True)

    def prune(self, keep: int) -> None:
        """After a checkpoint is written; torn ones go once training has come as far again."""
        steps = self.steps()
        for step in expired(steps, keep, self._best_step()):
            self.path(step).unlink(missing_ok=True)
        for torn in self.folder.glob(f"step-*.pt{TORN}"):
            if _step_of(torn) <= max(steps, default=0):
                torn.unlink(missing_ok=True)

    def _temporary(self, step: int, attempt: int) -> Path:
        return self.path(step).with_suffix(f".pt.{attempt}.tmp")

    def _best_step(self) -> int | None:
        best = self.folder / BEST
        return int(read_metadata(best)["step"]) if best.exists() else None


class CheckpointWriter:
    """Writes on a thread of its own, one at a time: the next one waits for it.

    A disk that is full costs a checkpoint and no training: `say` is told. Only the last one must succeed.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        keep: int,
        attempt: int,
        may_write: Callable[[], None],
        say: Callable[[str], None],
        start: int,
    ) -> None:
        self._checkpoints = checkpoints
        self._keep = keep
        self._attempt = attempt
        self._may_write = may_write
        self._say = say
        self._whole = start
        """Step from which a restart would go on."""
        self._error: BaseException | None = None
        self._jobs: queue.Queue[tuple[int, dict[str, Any]]] = queue.Queue()
        threading.Thread(target=self._work, name="checkpoints", daemon=True).start()

    def save(self, step: int, state: dict[str, Any], last: bool = False) -> None:
        """`state` after `step` steps; copied to the CPU before this returns. The last one is on disk by then.

        Errors: Superseded, CheckpointError.
        """
        self.wait()
        copied = to_cpu(state)
        if last:
            self._insist(step, copied)
        else:
            self._jobs.put((step, copied))

    def missing(self, step: int, why: object) -> None:
        """Tell that there is no checkpoint of `step`."""
        self._say(
            f"the checkpoint of step {step} is missing: {why}; training goes on, and a restart would begin at step "
            f"{self._whole}"
        )

    def wait(self) -> None:
        """Until nothing is being written. Errors: what went wrong, but for OSError, of which `say` was told."""
        self._jobs.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            step, state = self._jobs.get()
            try:
                try:
                    self._write(step, state)
                except OSError as error:
                    self.missing(step, error)
            except BaseException as error:  # raised on the training thread, with the next checkpoint
                self._error = error
            finally:
                del state
                self._jobs.task_done()

    def _insist(self, step: int, state: dict[str, Any]) -> None:
        def write() -> None:
            self._write(step, state)

        try:
            insist(write, lambda error: self._say(f"the last checkpoint is not written yet, and tried again: {error}"))
        except OSError as error:
            raise CheckpointError(
                f"the last checkpoint (step {step}) could not be written for {LAST_SECONDS:g} s: {error}. The same "
                f"command goes on from step {self._whole} once that is mended"
            ) from error

    def _write(self, step: int, state: dict[str, Any]) -> None:
        self._checkpoints.write(step, state, self._attempt, self._may_write)
        self._whole = step
        self._checkpoints.prune(self._keep)


def insist(write: Callable[[], None], say: Callable[[OSError], None]) -> None:
    """Until `write` succeeds, or for `LAST_SECONDS`; `say` is told of the first failure. Errors: the last OSError."""
    deadline = time.monotonic() + LAST_SECONDS
    told = False
    while True:
        try:
            return write()
        except OSError as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                say(error)
            told = True
        time.sleep(PAUSE_SECONDS)


def to_cpu(value: Any) -> Any:
    """A copy of nested dicts, lists and tensors that nobody else holds, tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # of the same kind, such as an OrderedDict
        for key, item in value.items():
            copied[key] = to_cpu(item)
        return copied
    if isinstance(value, (list, tuple)):
        return type(value)(to_cpu(item) for item in value)
    return value


class _Hashing:
    """What torch writes to. It gets no error while it is at it: one that passes through its C++ loses its type."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._error: OSError | None = None

    @property
    def digest(self) -> bytes:
        return self._hash.hexdigest().encode()

    def write(self, data: bytes) -> int:
        if self._error is None:
            self._hash.update(data)
            try:
                self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        pass

    def check(self) -> None:
        if self._error is not None:
            raise self._error


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-").partition(".")[0])


def _is_whole(path: Path) -> bool:
    """Errors: OSError."""
    with path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - DIGEST_BYTES
        digest = hashlib.sha256()
        while left > 0 and (data := file.read(min(left, READ_BYTES))):
            digest.update(data)
            left -= len(data)
        return left == 0 and file.read() == digest.hexdigest().encode()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _folder_to_disk(folder: Path) -> None:
    """A rename is on disk when its folder is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
