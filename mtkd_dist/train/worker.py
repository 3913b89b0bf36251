"""What Ray Train runs on every student rank: build, resume, wrap in DDP, train."""

from __future__ import annotations

import functools
import time
from typing import Any

import ray
import ray.train
import ray.train.torch
from torch.nn.parallel import DistributedDataParallel

from mtkd_dist.pools.board import AskedToStop
from mtkd_dist.pools.device import pick_device, use_threads
from mtkd_dist.pools.errors import root_cause
from mtkd_dist.pools.link import LinkError
from mtkd_dist.train.attempt import begin
from mtkd_dist.train.cached_source import source_of_files
from mtkd_dist.train.checkpoints import CheckpointError
from mtkd_dist.train.job import StudentJob
from mtkd_dist.train.link_source import LinkSource
from mtkd_dist.train.loop import train
from mtkd_dist.train.nonfinite import NonFiniteLoss
from mtkd_dist.train.source import Share, Source, slots_of_rank
from mtkd_dist.train.stopping import Stopping, nobody_asks
from mtkd_dist.train.students import replaced
from mtkd_dist.train.validator import ask

FATAL_SECONDS = 20.0
"""So long the driver waits for a rank that knows why a loss is not finite, after one that does not."""


def student_worker(config: dict[str, Any]) -> None:
    """`train_loop_per_worker`. `config`: job (StudentJob), folder (Path of the checkpoints), linked (whether there is a
    teacher pool), and the actors board and validator (or None)."""
    job: StudentJob = config["job"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    use_threads(job.pool.threads)
    device = pick_device(job.pool.gpus > 0, ray.train.torch.get_device().index or 0)
    board, validator = config["board"], config["validator"]

    def say(note: str) -> None:
        board.post.remote([{"note": note}])

    state, attempt = begin(job, config["folder"], rank, world_size, device, say)

    def source() -> Source:
        share = Share(job.images, job.plan, job.slot_size, slots_of_rank(job.slots_per_step, rank, world_size))
        if not config["linked"]:
            return source_of_files(job, share, device, say)
        find_links = functools.partial(_find_links, board)
        return LinkSource(find_links, attempt.number, rank, world_size, share, device, job.training.channels_last)

    # Buffers are constants here (masks, matrices), the same on all ranks; SwinIR's are larger than its gradients.
    wrap = functools.partial(DistributedDataParallel, broadcast_buffers=False)
    network = replaced(state.model, wrap) if world_size > 1 else state.model
    validates = rank == 0 and validator is not None
    if rank == 0:
        board.post.remote([{"begun": attempt.start}])
    try:
        train(
            state,
            network,
            job.method,
            source(),
            job.training,
            seed=job.seed,
            rank=rank,
            world_size=world_size,
            consumed=attempt.consumed,
            checkpoint=functools.partial(attempt.checkpoint, state),
            validate=lambda: ask(validator, board, state.step, state.result()) if validates else None,
            post=board.post.remote if rank == 0 else functools.partial(_post_shares, board, rank, world_size),
            stops=Stopping(state.step, AskedToStop(board) if rank == 0 else nobody_asks, attempt.least),
        )
        attempt.written()
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


def _find_links(board: Any) -> list[Any]:
    links: list[Any] = ray.get(board.links.remote())
    return links


def _post_shares(board: Any, rank: int, world_size: int, records: list[dict[str, Any]]) -> None:
    """Ranks above 0 have the same losses up to their share of the batch; where their time goes is their own."""
    shares = [record["students"] for record in records if "students" in record]
    if shares:
        board.post.remote([{"rank": rank, "of": world_size, "students": shares[-1]}])
