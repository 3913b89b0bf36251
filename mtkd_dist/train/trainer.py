"""One training from the driver's side: start both pools, let Ray Train run the students, pass on what they report."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.board import start_board
from mtkd_dist.pools.cluster import has_real_gpus
from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.interrupts import FINISHING, Leave, leaving
from mtkd_dist.pools.nodes import teacher_strategies
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.pools.reservation import reserved
from mtkd_dist.pools.teacher_pool import TeacherPool
from mtkd_dist.pools.teacher_worker import TeacherJob
from mtkd_dist.train.checkpoints import Checkpoints
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.news import News, Update
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.stopping import saved_in
from mtkd_dist.train.validation import ValidationJob, best_weights
from mtkd_dist.train.validator import validator, wait_until_idle
from mtkd_dist.train.worker import student_worker

T = TypeVar("T")

POLL_SECONDS = 0.5
RESIZE_SECONDS = 60.0
"""So often an elastic student pool looks whether there is room for more ranks; each change is a restart."""
MAX_FAILURES = 3
"""Restarts of the student group, and attempts to start it (60 s each), before a training is given up."""


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
    Errors: TrainingFailed; Saved after the first Ctrl-C; KeyboardInterrupt after the second, or where no student had
    begun. The student group ends with this process's connection to Ray.
    """
    board = start_board()
    with contextlib.ExitStack() as stack:
        pool = None
        if teacher is not None and layout.teachers is not None:
            if student.min_workers is not None:
                stack.enter_context(reserved(layout.teachers))
            pool = stack.enter_context(
                TeacherPool(
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
        news = News(board, pool, layout.students.workers)
        fitting = _in_background(trainer.fit)
        leave = _wait(fitting, pool, board, news, on_update)
        try:
            fitting.result()
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(_first_failure(error)) from error
        say = functools.partial(news.say, on_update)
        saved = saved_in(folder, student.training.steps, say) if leave.asked else None

        def poll() -> None:
            news.pass_on(on_update)
            if saved is not None and leave.overdue:
                raise saved

        poll()  # of the last steps
        if judge is not None:
            # Also before an early end: the best weights may be those of a validation that is still to come.
            wait_until_idle(judge, poll, say)
            if lost := news.unanswered():
                steps = ", ".join(map(str, lost))
                say(f"validations after step {steps} are lost, because the validator died; see the log")
        if saved is not None:
            raise saved
    if student.training.result == "best":
        return best_weights(validation, folder)
    return _result(student, Checkpoints(folder), functools.partial(news.say, on_update))


def _wait(
    fitting: Future[Any], pool: TeacherPool | None, board: ActorHandle, news: News, on_update: Callable[[Update], None]
) -> Leave:
    """Until the students have ended, which the first Ctrl-C asks them to. Errors: TrainingFailed, KeyboardInterrupt."""
    told = False
    with leaving() as leave:
        while not fitting.done():
            concurrent.futures.wait([fitting], POLL_SECONDS)
            if pool is not None:
                pool.heal()
            news.pass_on(on_update)
            if leave.asked and not told:
                if not news.begun:
                    raise KeyboardInterrupt  # there is nothing to save
                board.stop.remote()
                news.say(on_update, FINISHING)
                told = True
            leave.check()
    return leave


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
