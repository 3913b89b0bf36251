"""What Ray Train runs on every student rank: build, resume, wrap in DDP, train."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.pools.link import LinkError
from mtkd_dist.train.cached_source import CachedSource
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.loop import train
from mtkd_dist.train.nonfinite import NonFiniteLoss
from mtkd_dist.train.source import LinkSource, LocalSource, Share, Source, slots_of_rank
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.validator import ask

FATAL_SECONDS = 20.0
"""So long the driver waits for a rank that knows why a loss is not finite, after one that does not."""


def student_worker(config: dict[str, Any]) -> None:
    """`train_loop_per_worker`. `config`: job (StudentJob), and the actors board, link and validator (or None each)."""
    job: StudentJob = config["job"]
    training = job.training
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    use_threads(job.pool.threads)
    device = pick_device(job.pool.gpus > 0, ray.train.torch.get_device().index or 0)
    model = job.build().to(device)
    if training.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainState(model, training)
    with _latest_checkpoint() as folder:
        if folder is not None:
            state.load(folder, device)
    if training.compile:
        # In place, so that the keys of the state dict stay.
        state.model.compile()
    # Buffers are constants here (masks, matrices), the same on all ranks; SwinIR's are larger than its gradients.
    network = DistributedDataParallel(state.model, broadcast_buffers=False) if world_size > 1 else state.model
    board, validator = config["board"], config["validator"]
    validates = rank == 0 and validator is not None
    try:
        train(
            state,
            network,
            job.method,
            _source(job, config["link"], board, rank, world_size, state.step, device),
            training,
            seed=job.seed,
            rank=rank,
            checkpoint=lambda: _report(state, rank),
            validate=lambda: ask(validator, board, state.step, state.result()) if validates else None,
            post=board.post.remote if rank == 0 else _drop,
        )
    except (NonFiniteLoss, LinkError) as error:
        # Would happen again after each restart by Ray Train: the driver gives up at once.
        knows = not isinstance(error, NonFiniteLoss) or error.names_samples
        ray.get(board.post.remote([{"fatal": f"student rank {rank}: {root_cause(error)}", "knows_why": knows}]))
        if not knows and world_size > 1:
            # The first rank that fails takes the others with it.
            time.sleep(FATAL_SECONDS)
        raise


def _source(
    job: StudentJob, link: Any, board: Any, rank: int, world_size: int, first_step: int, device: torch.device
) -> Source:
    share = Share(job.images, job.plan, job.slot_size, slots_of_rank(job.slots_per_step, rank, world_size))
    if job.rendered is not None:
        return CachedSource(
            share,
            job.method,
            job.rendered,
            device,
            job.training.channels_last,
            tell=lambda text: board.post.remote([{"note": text}]),
        )
    if link is None:
        return LocalSource(share, device, job.training.channels_last)
    attempt = _of_rank_0(ray.get(link.new_attempt.remote()) if rank == 0 else 0, world_size, device)
    ray.get(link.attach.remote(attempt, rank, world_size, first_step))
    return LinkSource(link, attempt, rank, share, device, job.training.channels_last)


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
