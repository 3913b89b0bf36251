"""One training from the driver's side: start both pools, let Ray Train run the students, pass on what they report."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.models import read_state_dict
from mtkd_dist.pools.board import BoardActor, answer_of_board
from mtkd_dist.pools.cluster import has_real_gpus, spilled_bytes
from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.nodes import on_this_node, teacher_strategies
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.pools.reservation import reserved
from mtkd_dist.pools.teacher_pool import TeacherPool, teacher_pool
from mtkd_dist.pools.teacher_worker import TeacherJob
from mtkd_dist.train.checkpoints import Checkpoints
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.validation import ValidationJob
from mtkd_dist.train.validator import validator, wait_until_idle
from mtkd_dist.train.worker import FATAL_SECONDS, student_worker

T = TypeVar("T")

POLL_SECONDS = 0.5
RESIZE_SECONDS = 60.0
"""So often an elastic student pool looks whether there is room for more ranks; each change is a restart."""
SPILLED_SECONDS = 10.0
"""Ray is asked this often what it has spilled: every node has to answer."""
MAX_FAILURES = 3
"""Restarts of the student group, and attempts to start it (60 s each), before a training is given up."""


@dataclass(frozen=True)
class Update:
    """What the driver learned since the last one."""

    records: list[dict[str, Any]]
    """One for each step; see `mtkd_dist.train.loop.train`."""
    teachers: PoolShares | None
    """None where there is no teacher pool."""
    link: dict[str, Any]
    """What the link says of itself, and "bytes_spilled" by Ray since this training began."""
    validations: list[dict[str, Any]]
    """One for each validation; see `mtkd_dist.train.validation.Validation.run`."""
    notes: list[str]
    """Sentences for the screen."""
    students: PoolShares | None = None
    """Of the rank that waited longest so far: the others wait for it too, in the sum of the gradients, where it looks
    like work. None before the first."""


def run_training(
    student: StudentJob,
    teacher: TeacherJob | None,
    layout: Layout,
    link: LinkConfig,
    folder: Path,
    on_update: Callable[[Update], None],
    validation: ValidationJob | None = None,
) -> dict[str, torch.Tensor]:
    """Train to the end, going on from the newest checkpoint in `folder`; returns the resulting weights on the CPU.

    `on_update` is called about twice a second, on the calling thread. The end waits for the last validation.
    Errors: TrainingFailed; KeyboardInterrupt passes through at once. The student group ends with this process's
    connection to Ray.
    """
    board = BoardActor.options(scheduling_strategy=on_this_node()).remote()
    with contextlib.ExitStack() as stack:
        pool = None
        if teacher is not None and layout.teachers is not None:
            if student.min_workers is not None:
                stack.enter_context(reserved(layout.teachers))
            pool = stack.enter_context(
                teacher_pool(
                    teacher,
                    layout.teachers,
                    student.training.steps,
                    student.slots_per_step,
                    link,
                    board,
                    teacher_strategies(layout),
                )
            )
        judge = stack.enter_context(validator(validation, board))
        trainer = TorchTrainer(
            student_worker,
            train_loop_config={
                "job": student,
                "folder": folder.resolve(),
                "board": board,
                "linked": pool is not None,
                "validator": judge,
            },
            scaling_config=_scaling(layout.students, student.min_workers),
            torch_config=TorchConfig(backend=_backend(layout.students)),
            run_config=RunConfig(
                # Ray Train keeps no checkpoint there, but wants to write to it: with the checkpoints it can.
                name="ray-train",
                storage_path=str(folder.resolve()),
                failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
            ),
        )
        news = _News(board, pool, layout.students.workers)
        fitting = _in_background(trainer.fit)
        while not fitting.done():
            concurrent.futures.wait([fitting], POLL_SECONDS)
            if pool is not None:
                pool.heal()
            news.pass_on(on_update)
        try:
            fitting.result()
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(_first_failure(error)) from error
        if judge is not None:
            news.pass_on(on_update)
            wait_until_idle(judge, functools.partial(news.pass_on, on_update), functools.partial(news.say, on_update))
            if lost := news.unanswered():
                steps = ", ".join(map(str, lost))
                news.say(on_update, f"validations after step {steps} are lost, because the validator died; see the log")
    if student.training.result == "best":
        if validation is None or not validation.best.exists():
            raise TrainingFailed(f"result=best, but no validation in {folder} came to a score; the log has the reason")
        return read_state_dict(validation.best)
    return _result(student, Checkpoints(folder), functools.partial(news.say, on_update))


def _backend(pool: PoolSize) -> str:
    # Ray Train would take nccl wherever GPUs are asked for, also logical ones.
    return "nccl" if pool.gpus and has_real_gpus() else "gloo"


def _scaling(pool: PoolSize, min_workers: int | None) -> ScalingConfig:
    # Ray Train refuses a GPU key without use_gpu.
    resources = {"CPU": pool.cpus, "GPU": pool.gpus} if pool.gpus else {"CPU": pool.cpus}
    return ScalingConfig(
        num_workers=pool.workers if min_workers is None else (min_workers, pool.workers),
        use_gpu=pool.gpus > 0,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
    )


def _in_background(function: Callable[[], T]) -> Future[T]:
    """Call on a daemon thread: on the main thread Ray Train takes Ctrl-C for itself and ends the process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # handed to whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="fit", daemon=True).start()
    return future


class _News:
    """What board and links have to tell since the last time."""

    def __init__(self, board: ActorHandle, teachers: TeacherPool | None, ranks: int) -> None:
        self._board = board
        self._teachers = teachers
        self._read = 0
        self._stats: dict[str, Any] = {}
        self._asked: set[int] = set()
        self._answered: set[int] = set()
        self._failure = Failure(ranks)
        self._students = StudentShares()
        self._spilled = _Spilled()

    def pass_on(self, on_update: Callable[[Update], None]) -> None:
        """Errors: TrainingFailed, when a student met what a restart cannot mend, or when the board is dead."""
        try:
            records = answer_of_board(self._board.read.remote(self._read), timeout=10)
        except (ray.exceptions.RayError, TimeoutError):
            return  # what was not read is read the next time
        stats = self._link_stats()
        self._read += len(records)
        if stats and (spilled := self._spilled.bytes()) is not None:
            stats["bytes_spilled"] = spilled
        self._students.add(records)
        self._asked |= {record["asked"] for record in records if "asked" in record}
        self._answered |= {record["answered"] for record in records if "answered" in record}
        update = Update(
            [record for record in records if "loss" in record],
            stats.get("shares"),
            stats,
            [record["validation"] for record in records if "validation" in record],
            [record["note"] for record in records if "note" in record],
            self._students.longest_wait(),
        )
        if update.records or update.validations or update.notes:
            on_update(update)
        if message := self._failure.decide([r for r in records if "fatal" in r], time.monotonic()):
            raise TrainingFailed(message)

    def _link_stats(self) -> dict[str, Any]:
        """As they were last where a link does not answer, so that it hides no news; empty before the first."""
        if self._teachers is not None:
            with contextlib.suppress(ray.exceptions.RayError, TimeoutError):
                self._stats = self._teachers.stats(timeout=10)
        return self._stats

    def say(self, on_update: Callable[[Update], None], note: str) -> None:
        on_update(Update([], None, {}, [], [note]))

    def unanswered(self) -> list[int]:
        """Steps whose validation was asked for and is not on the board."""
        return sorted(self._asked - self._answered)


class StudentShares:
    """Where the time of all ranks went, from what they post."""

    def __init__(self) -> None:
        self._of_rank: dict[int, PoolShares] = {}

    def add(self, records: list[dict[str, Any]]) -> None:
        """Records with "students" (PoolShares so far), of rank 0, or of "rank" where it is one of "of"."""
        for record in records:
            if "students" in record:
                self._of_rank[record.get("rank", 0)] = record["students"]
            if "of" in record:
                # An elastic group may have become smaller.
                self._of_rank = {rank: shares for rank, shares in self._of_rank.items() if rank < record["of"]}

    def longest_wait(self) -> PoolShares | None:
        """Of the rank that waited longest: the others wait for it in the sum of the gradients, and call that work."""
        return max(self._of_rank.values(), key=lambda shares: shares.starved, default=None)


class _Spilled:
    """What Ray has spilled since this was made; asked for every few seconds, told in between."""

    def __init__(self) -> None:
        self._before = spilled_bytes()
        self._now = self._before
        self._next_at = time.monotonic() + SPILLED_SECONDS

    def bytes(self) -> int | None:
        if self._before is None:
            return None
        if time.monotonic() >= self._next_at:
            self._now = spilled_bytes()
            self._next_at = time.monotonic() + SPILLED_SECONDS
        return None if self._now is None else self._now - self._before


class Failure:
    """Which of the ranks' last words are told. A step that is not finite fails all ranks, but few know why."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._words: list[dict[str, Any]] = []
        self._since = 0.0

    def decide(self, records: list[dict[str, Any]], now: float) -> str | None:
        """Records {"fatal": text, "knows_why": bool}, `now` in seconds -> the text to end with, or None to go on.

        The first rank that knows why; without one the first of all, once every rank has spoken or had the time to.
        """
        if records and not self._words:
            self._since = now
        self._words += records
        for record in self._words:
            if record["knows_why"]:
                return str(record["fatal"])
        if self._words and (len(self._words) >= self._ranks or now - self._since > FATAL_SECONDS):
            return str(self._words[0]["fatal"])
        return None


def _result(student: StudentJob, checkpoints: Checkpoints, say: Callable[[str], None]) -> dict[str, torch.Tensor]:
    """Errors: TrainingFailed where the last checkpoint is not whole."""
    step = checkpoints.newest(say)
    if step != student.training.steps:
        raise TrainingFailed(
            f"the training in {checkpoints.folder} ended, but its last checkpoint is not there (newest whole one: "
            f"{'none' if step is None else f'step {step}'}); the same command goes on from that"
        )
    state = TrainState(student.build(), student.training)
    state.load_state_dict(checkpoints.load(step, torch.device("cpu")))
    return state.result()


def _first_failure(error: ray.train.TrainingFailedError) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    return "; ".join(f"student rank {rank}: {root_cause(e)}" for rank, e in failures.items()) or root_cause(error)
