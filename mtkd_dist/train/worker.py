"""What Ray Train runs on every student rank: build, resume, wrap in DDP, train."""

from __future__ import annotations

import functools
import time
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from torch.nn.parallel import DistributedDataParallel

from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.pools.link import LinkError
from mtkd_dist.train.attempt import Attempt
from mtkd_dist.train.cached_source import CachedSource
from mtkd_dist.train.checkpoints import CheckpointError
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.link_source import LinkSource
from mtkd_dist.train.loop import train
from mtkd_dist.train.nonfinite import NonFiniteLoss
from mtkd_dist.train.source import LocalSource, Share, Source, slots_of_rank
from mtkd_dist.train.state import TrainState
from mtkd_dist.train.validator import ask

FATAL_SECONDS = 20.0
"""So long the driver waits for a rank that knows why a loss is not finite, after one that does not."""


def student_worker(config: dict[str, Any]) -> None:
    """`train_loop_per_worker`. `config`: job (StudentJob), folder (Path of the checkpoints), linked (whether there is a
    teacher pool), and the actors board and validator (or None)."""
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
    board, validator = config["board"], config["validator"]
    attempt = Attempt(job, config["folder"], rank, world_size, device, lambda note: board.post.remote([{"note": note}]))
    attempt.load(state)
    if training.compile:
        # In place, so that the keys of the state dict stay.
        state.model.compile()
    # Buffers are constants here (masks, matrices), the same on all ranks; SwinIR's are larger than its gradients.
    network = DistributedDataParallel(state.model, broadcast_buffers=False) if world_size > 1 else state.model
    validates = rank == 0 and validator is not None
    try:
        train(
            state,
            network,
            job.method,
            _source(job, config["linked"], board, attempt, rank, world_size, device),
            training,
            seed=job.seed,
            rank=rank,
            world_size=world_size,
            consumed=attempt.consumed,
            checkpoint=functools.partial(attempt.checkpoint, state),
            validate=lambda: ask(validator, board, state.step, state.result()) if validates else None,
            post=board.post.remote if rank == 0 else functools.partial(_post_shares, board, rank, world_size),
        )
    except (NonFiniteLoss, LinkError, CheckpointError) as error:
        # Would happen again after each restart by Ray Train: the driver gives up at once.
        knows = not isinstance(error, NonFiniteLoss) or error.names_samples
        ray.get(board.post.remote([{"fatal": f"student rank {rank}: {root_cause(error)}", "knows_why": knows}]))
        if not knows and world_size > 1:
            # The first rank that fails takes the others with it.
            time.sleep(FATAL_SECONDS)
        raise
    finally:
        attempt.close()


def _source(
    job: StudentJob, linked: bool, board: Any, attempt: Attempt, rank: int, world_size: int, device: torch.device
) -> Source:
    """From the links that the board knows, or cut by the rank itself where there is none to ask."""
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
    if not linked:
        return LocalSource(share, device, job.training.channels_last)
    find_links = functools.partial(_find_links, board)
    return LinkSource(find_links, attempt.number, rank, world_size, share, device, job.training.channels_last)


def _find_links(board: Any) -> list[Any]:
    links: list[Any] = ray.get(board.links.remote())
    return links


def _post_shares(board: Any, rank: int, world_size: int, records: list[dict[str, Any]]) -> None:
    """Ranks above 0 have the same losses up to their share of the batch; where their time goes is their own."""
    shares = [record["students"] for record in records if "students" in record]
    if shares:
        board.post.remote([{"rank": rank, "of": world_size, "students": shares[-1]}])
