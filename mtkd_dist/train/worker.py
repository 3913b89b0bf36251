"""What Ray Train runs on every student rank: build, resume, wrap in DDP, train."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtkd_dist.config.tree import TrainingConfig
from mtkd_dist.data import Plan
from mtkd_dist.methods import Method
from mtkd_dist.models import build_aggregator, build_network
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.pools.link import LinkError
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.train.loop import NonFiniteLoss, train
from mtkd_dist.train.source import LinkSource, LocalSource, Source, slots_of_rank
from mtkd_dist.train.state import TrainState


@dataclass(frozen=True)
class StudentJob:
    """Everything a student rank needs to know; files instead of tensors."""

    network: str
    """What is trained: a network by its text, or an aggregator when `num_teachers` is not 0."""
    num_teachers: int
    scale: int
    method: Method
    plan: Plan
    slot_size: int
    images: Path
    training: TrainingConfig
    seed: int
    pool: PoolSize
    """What this rank reserved."""

    @property
    def slots_per_step(self) -> int:
        return self.training.batch_size // self.slot_size

    def build(self) -> nn.Module:
        """The network with fresh weights, the same on every rank."""
        torch.manual_seed(self.seed)
        if self.num_teachers:
            return build_aggregator(self.network, self.num_teachers, self.scale)
        return build_network(self.network, self.scale)


def student_worker(config: dict[str, Any]) -> None:
    """`train_loop_per_worker`. `config`: job (StudentJob), board (BoardActor), link (LinkActor or None)."""
    job: StudentJob = config["job"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    use_threads(job.pool.threads)
    device = pick_device(job.pool.gpus > 0, ray.train.torch.get_device().index or 0)
    state = TrainState(job.build().to(device), job.training)
    with _latest_checkpoint() as folder:
        if folder is not None:
            state.load(folder, device)
    network = DistributedDataParallel(state.model) if world_size > 1 else state.model
    board = config["board"]
    try:
        train(
            state,
            network,
            job.method,
            _source(job, config["link"], rank, world_size, state.step, device),
            job.training,
            seed=job.seed,
            rank=rank,
            checkpoint=lambda: _report(state, rank),
            post=board.post.remote if rank == 0 else _drop,
        )
    except (NonFiniteLoss, LinkError) as error:
        # Would happen again after each restart by Ray Train: the driver gives up at once.
        ray.get(board.post.remote([{"fatal": f"student rank {rank}: {root_cause(error)}"}]))
        raise


def _source(job: StudentJob, link: Any, rank: int, world_size: int, first_step: int, device: torch.device) -> Source:
    slots = slots_of_rank(job.slots_per_step, rank, world_size)
    if link is None:
        return LocalSource(job.images, job.plan, job.slot_size, slots, device)
    attempt = _of_rank_0(ray.get(link.new_attempt.remote()) if rank == 0 else 0, world_size, device)
    ray.get(link.attach.remote(attempt, rank, world_size, first_step))
    return LinkSource(link, attempt, rank, slots, device)


def _of_rank_0(value: int, world_size: int, device: torch.device) -> int:
    """All ranks of one attempt carry the same number."""
    if world_size == 1:
        return value
    shared = torch.tensor([value], device=device)
    torch.distributed.broadcast(shared, src=0)
    return int(shared.item())


@contextlib.contextmanager
def _latest_checkpoint() -> Iterator[Path | None]:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
    else:
        with checkpoint.as_directory() as folder:
            yield Path(folder)


def _report(state: TrainState, rank: int) -> None:
    """A barrier: Ray Train wants every rank to report equally often; rank 0 brings the checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            state.save(Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": state.step}, checkpoint=checkpoint)


def _drop(records: list[dict[str, Any]]) -> None:
    """Ranks above 0 have the same losses up to their share of the batch; rank 0 speaks for all."""
