"""One start of the student group: its number, where it goes on, what it writes down and what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed

from mtkd_dist.train.checkpoints import LAST_SECONDS, CheckpointError, Checkpoints, CheckpointWriter, Superseded, insist
from mtkd_dist.train.consumption import ConsumptionLog, Header, claim_attempt, latest_attempt
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.students import each


def begin(
    job: StudentJob, folder: Path, rank: int, world_size: int, device: torch.device, say: Callable[[str], None]
) -> tuple[TrainState, Attempt]:
    """The training on `device` as it stands in `folder`, and the attempt that goes on with it. For the arguments see
    `Attempt`."""
    training = job.training
    model = job.build().to(device)
    if training.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainState(model, training)
    attempt = Attempt(job, folder, rank, world_size, device, say)
    attempt.load(state)
    if training.compile:
        for network in each(state.model).values():
            # In place, so that the keys of the state dict stay.
            network.compile()
    return state, attempt


class Attempt:
    """What one rank does about resuming. All ranks carry the number that rank 0 drew and the step that it chose.

    Args:
        folder: of the checkpoints.
        say: takes a note for the screen.
    """

    def __init__(
        self,
        job: StudentJob,
        folder: Path,
        rank: int,
        world_size: int,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self._job = job
        self._folder = folder
        self._rank = rank
        self._world_size = world_size
        self._device = device
        self._say = say
        self._checkpoints = Checkpoints(folder)
        self.number, self.start = self._begin()
        """`start`: steps that are done already."""
        self._log = ConsumptionLog(folder, self._header())
        self._writer = CheckpointWriter(
            self._checkpoints, job.training.keep_checkpoints, self.number, self._check, say, self.start
        )

    def load(self, state: TrainState) -> None:
        """Bring `state` to `start`."""
        if self.start:
            state.load_state_dict(self._checkpoints.load(self.start, self._device))

    def consumed(self, step: int, checks: Sequence[int], skipped: Sequence[int] = ()) -> None:
        """This rank has learned from these samples (see `Batch.checks`), without those of the slots `skipped`."""
        self._log.append(step, checks, skipped)

    def checkpoint(self, state: TrainState) -> None:
        """Called on every rank: rank 0 saves, once what each rank consumed is on disk.

        Errors: Superseded; CheckpointError where the last one cannot be written.
        """
        last = state.step == self._job.training.steps
        error = self._sync(last)
        if all(self.least([int(error is None)])):
            if self._rank == 0:
                self._writer.save(state.step, state.state_dict(), last)
            return
        why = error or "another rank could not write down what it consumed"
        if last:
            raise CheckpointError(f"the last checkpoint could not be written for {LAST_SECONDS:g} s: {why}")
        if self._rank == 0:
            self._writer.missing(state.step, why)

    def written(self) -> None:
        """Returns once the last checkpoint that was asked for is on disk, or was told to be missing.

        Errors: Superseded.
        """
        self._writer.wait()

    def least(self, numbers: Sequence[int]) -> list[int]:
        """The least of each over all ranks, which all call this equally often."""
        if self._world_size == 1:
            return list(numbers)
        everywhere = torch.tensor(list(numbers), device=self._device)
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        return [int(number) for number in everywhere.tolist()]

    def close(self) -> None:
        self._log.close()

    def _begin(self) -> tuple[int, int]:
        number = start = 0
        if self._rank == 0:
            # In this order: once the number is taken, no earlier attempt can add a checkpoint.
            number = claim_attempt(self._folder)
            self._checkpoints.sweep()
            start = self._checkpoints.newest(self._say) or 0
        if self._world_size > 1:
            shared = torch.tensor([number, start], device=self._device)
            torch.distributed.broadcast(shared, src=0)
            number, start = (int(value) for value in shared.tolist())
        return number, start

    def _header(self) -> Header:
        job, plan = self._job, self._job.plan
        return Header(
            attempt=self.number,
            rank=self._rank,
            world_size=self._world_size,
            start=self.start,
            steps=job.training.steps,
            slot_size=job.slot_size,
            batch_size=plan.batch_size,
            patch=plan.patch,
            seed=plan.seed,
            dataset=plan.dataset_digest,
            plan=plan.digest,
            images=str(job.images),
        )

    def _check(self) -> None:
        if (latest := latest_attempt(self._folder)) != self.number:
            raise Superseded(f"attempt {self.number} of the training in {self._folder} was replaced by {latest}")

    def _sync(self, patient: bool) -> OSError | None:
        try:
            if patient:
                insist(self._log.sync, lambda error: self._say(f"rank {self._rank} cannot write its log: {error}"))
            else:
                self._log.sync()
        except OSError as error:
            return error
        return None
