"""The probe: seconds of both halves of a method on one worker, from which the split of the devices is predicted.

It runs what a run would run: `TeacherWorker.answer` on crops of the run's photographs, and the student's step on these
answers. One actor does it all, one half after the other, so that neither disturbs the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from torch import nn

from mtkd_dist.methods import Batch
from mtkd_dist.models.precision import Autocast, compute_dtype
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.errors import TrainingFailed, root_cause
from mtkd_dist.pools.probe import line_through, median_seconds, serial_share
from mtkd_dist.pools.split import Costs
from mtkd_dist.pools.teacher_worker import TeacherJob, TeacherWorker
from mtkd_dist.pools.wire import Answer
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.source import batch_of
from mtkd_dist.train.state import TrainState, seed_step
from mtkd_dist.train.students import clip_gradients, each, learn

BUDGET_SECONDS = 2.0
"""Of each of the measurements; there are about six, and a half of it for each teacher."""
PLACEMENT_SECONDS = 600.0
"""So long the probe may take altogether, most of which is waiting for a place and loading."""


def run_probe(teacher: TeacherJob, student: StudentJob, most_threads: int) -> Costs:
    """Measure on a worker of the cluster, which is of the teachers' size.

    Args:
        most_threads: CPU threads that a student may come to have; 1 where it has a GPU.

    Errors: TrainingFailed with the first cause, such as a batch that does not fit into memory.
    """
    pool = teacher.pool
    actor = ray.remote(Probe).options(num_cpus=pool.cpus, num_gpus=pool.gpus)
    probe = actor.remote(teacher, student, most_threads, BUDGET_SECONDS)
    try:
        return cast(Costs, ray.get(probe.measure.remote(), timeout=PLACEMENT_SECONDS))
    except GetTimeoutError:
        free = ray.available_resources()
        raise TrainingFailed(
            f"the probe of the split did not end within {PLACEMENT_SECONDS:g} s; it wants {pool.cpus:g} CPU and "
            f"{pool.gpus:g} GPU, free are {free}. Say both --teacher-gpus and --student-gpus (or "
            "--cluster.teacher-workers and --cluster.student-workers) to do without it"
        ) from None
    except (RayTaskError, RayActorError) as error:
        raise TrainingFailed(f"the probe of the split failed: {root_cause(error)}") from error
    finally:
        ray.kill(probe)


class Probe:
    """Args:
    budget_seconds: of one measurement.
    put, get: the object store's.
    """

    def __init__(
        self,
        teacher: TeacherJob,
        student: StudentJob,
        most_threads: int,
        budget_seconds: float,
        put: Callable[[Answer], Any] = ray.put,
        get: Callable[[list[Any]], list[Answer]] = ray.get,
    ) -> None:
        self._teacher = teacher
        self._student = student
        self._most_threads = most_threads
        self._budget = budget_seconds
        self._put, self._get = put, get
        self._device = pick_device(teacher.pool.gpus > 0)

    def measure(self) -> Costs:
        answer_seconds, parts, answers = self._teacher_seconds()
        channels_last = self._student.training.channels_last
        stored = [self._put(answer) for answer in answers]
        read_seconds = self._time(lambda: batch_of(self._get(stored), self._device, channels_last))
        step_seconds, image_seconds, serial = self._student_seconds(answers)
        return Costs(
            teacher=answer_seconds,
            student_step=step_seconds,
            student_image=image_seconds,
            read=read_seconds / self._student.training.batch_size,
            cut=parts.pop("cut"),
            aggregator=parts.pop("aggregator", 0.0),
            teachers=parts,
            serial=serial,
            patch=self._teacher.plan.patch,
        )

    def _teacher_seconds(self) -> tuple[float, dict[str, float], list[Answer]]:
        """Seconds of the whole and of its parts, each for one image, and the answers of a step."""
        size, slots = self._teacher.slot_size, self._student.slots_per_step
        worker = TeacherWorker(self._teacher)
        turns = itertools.cycle(range(slots))

        def answer(slot: int) -> None:
            self._put(worker.answer(0, slot)[1])

        if self._device.type == "cuda":
            # As in a run: one answer is computed while another is cut and copied.
            with ThreadPoolExecutor(2) as threads:
                whole = self._time(lambda: list(threads.map(answer, (next(turns), next(turns))))) / 2
        else:
            whole = self._time(lambda: answer(next(turns)))
        with torch.inference_mode():
            parts = {name: self._time(call, share=0.5) for name, call in worker.parts(0, 0).items()}
        answers = [worker.answer(0, slot)[1] for slot in range(slots)]
        return whole / size, {name: seconds / size for name, seconds in parts.items()}, answers

    def _student_seconds(self, answers: list[Answer]) -> tuple[float, float, float]:
        """Seconds of a step, of each image in it, and the share that more threads do not shorten."""
        job = self._student
        model = job.build().to(self._device)
        if job.training.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        state = TrainState(model, job.training)
        if job.training.compile:
            for network in each(model).values():
                network.compile()
        dtype = compute_dtype(job.training.precision, self._device)
        students = {name: Autocast(network, dtype) for name, network in each(model).items()}
        slots = sorted({1, len(answers)})
        batches = [batch_of(answers[:count], self._device, job.training.channels_last) for count in slots]
        use_threads(1 if self._most_threads > 1 else job.pool.threads)
        points = [
            (float(len(batch.lr)), self._time(lambda batch=batch: self._step(state, students, batch)))  # type: ignore[misc]
            for batch in batches
        ]
        step, image = line_through(points)
        if self._most_threads < 2:
            return step, image, 1.0
        use_threads(self._most_threads)
        many = self._time(lambda: self._step(state, students, batches[-1]))
        return step, image, serial_share(points[-1][1], many, self._most_threads)

    def _step(self, state: TrainState, students: Mapping[str, nn.Module], batch: Batch) -> None:
        """As `mtkd_dist.train.loop.train` takes it."""
        state.optimizer.zero_grad(set_to_none=True)
        learn(students, self._student.method, batch, 1.0, lambda: seed_step(self._student.seed, state.step, 0))
        state.update(clip_gradients(state.model, self._student.training.clip_grad))

    def _time(self, call: Callable[[], object], share: float = 1.0) -> float:
        def done() -> None:
            call()
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)

        return median_seconds(done, share * self._budget)
