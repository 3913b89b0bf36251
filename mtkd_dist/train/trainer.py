"""One training from the driver's side: start both pools, let Ray Train run the students, pass on what they report."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray.actor import ActorHandle
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.board import BoardActor
from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.pools.teacher_pool import teacher_pool
from mtkd_dist.pools.teacher_worker import TeacherJob
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.worker import StudentJob, student_worker

T = TypeVar("T")

POLL_SECONDS = 0.5
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


def run_training(
    student: StudentJob,
    teacher: TeacherJob | None,
    layout: Layout,
    link: LinkConfig,
    folder: Path,
    on_update: Callable[[Update], None],
) -> dict[str, torch.Tensor]:
    """Train to the end, going on from the newest checkpoint in `folder`; returns the resulting weights on the CPU.

    `on_update` is called about twice a second, on the calling thread.
    Errors: TrainingFailed; KeyboardInterrupt passes through at once. The student group ends with this process's
    connection to Ray.
    """
    board = BoardActor.remote()
    with contextlib.ExitStack() as stack:
        link_handle = None
        if teacher is not None and layout.teachers is not None:
            pool = teacher_pool(teacher, layout.teachers, student.training.steps, student.slots_per_step, link)
            link_handle = stack.enter_context(pool).link
        trainer = TorchTrainer(
            student_worker,
            train_loop_config={"job": student, "board": board, "link": link_handle},
            scaling_config=_scaling(layout.students),
            torch_config=TorchConfig(backend=_backend(layout.students)),
            run_config=RunConfig(
                name="checkpoints",
                storage_path=str(folder.resolve()),
                failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        news = _News(board, link_handle)
        fitting = _in_background(trainer.fit)
        while not fitting.done():
            concurrent.futures.wait([fitting], POLL_SECONDS)
            news.pass_on(on_update)
        try:
            result = fitting.result()
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(_first_failure(error)) from error
    if result.checkpoint is None:
        raise TrainingFailed(f"the training in {folder} ended without a checkpoint; the log has its last words")
    return _result(student, Path(result.checkpoint.path))


def _backend(pool: PoolSize) -> str:
    # Ray Train would take nccl wherever GPUs are asked for, also logical ones. The driver's machine may have no GPU;
    # Ray names the type of those that are real.
    real = any(name.startswith("accelerator_type:") for name in ray.cluster_resources())
    return "nccl" if pool.gpus and real else "gloo"


def _scaling(pool: PoolSize) -> ScalingConfig:
    # Ray Train refuses a GPU key without use_gpu.
    resources = {"CPU": pool.cpus, "GPU": pool.gpus} if pool.gpus else {"CPU": pool.cpus}
    return ScalingConfig(num_workers=pool.workers, use_gpu=pool.gpus > 0, resources_per_worker=resources)


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
    """What board and link have to tell since the last time."""

    def __init__(self, board: ActorHandle, link: ActorHandle | None) -> None:
        self._board = board
        self._link = link
        self._read = 0

    def pass_on(self, on_update: Callable[[Update], None]) -> None:
        """Errors: TrainingFailed, when a student met what a restart cannot mend."""
        try:
            stats = ray.get(self._link.stats.remote(), timeout=10) if self._link is not None else {}
            records = ray.get(self._board.read.remote(self._read), timeout=10)
        except (ray.exceptions.RayError, TimeoutError):
            return  # the run's own error is the one to show, and what was not read is read the next time
        self._read += len(records)
        for record in records:
            if "fatal" in record:
                raise TrainingFailed(record["fatal"])
        if records:
            on_update(Update(records, stats.get("shares"), stats))


def _result(student: StudentJob, folder: Path) -> dict[str, torch.Tensor]:
    state = TrainState(student.build(), student.training)
    state.load(folder, torch.device("cpu"))
    return state.result()


def _first_failure(error: ray.train.TrainingFailedError) -> str:
    failures = getattr(error, "worker_failures", None) or {}
    return "; ".join(f"student rank {rank}: {root_cause(e)}" for rank, e in failures.items()) or root_cause(error)
