"""A training whose students become more when a node joins the cluster, and fewer when it is lost.

A process of its own, because the cluster is: `python -m tests.elastic_students FOLDER`. Prints what `verify-run` says
and how many ranks each attempt had, then whether the weights are those of one rank within the documented tolerance.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray.cluster_utils import Cluster
from torch import nn

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.methods import Batch, Losses, Supervised
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.train import trainer
from mtkd_dist.train.consumption import Log, read_logs
from mtkd_dist.train.news import Update
from mtkd_dist.train.state import TrainState
from mtkd_dist.verify_run import verify
from tests.nets import make_job, make_store, make_teacher_job, train_alone


@dataclass(frozen=True)
class Slow(Supervised):
    """Leaves the cluster time to change."""

    def loss(self, student: nn.Module, batch: Batch) -> Losses:
        time.sleep(0.15)
        return super().loss(student, batch)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer.RESIZE_SECONDS = 2.0
    job = replace(
        make_job(make_store(folder), steps=300, batch_size=8, checkpoint_every=10, learning_rate=1e-3),
        min_workers=1,
    )
    checkpoints = folder / "run" / "distil" / "checkpoints-0"
    # Room for one teacher and one student.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.connect()
    layout = Layout(PoolSize(workers=3, cpus=1, gpus=0), PoolSize(workers=1, cpus=1, gpus=0))
    slow = replace(job, method=Slow())
    teacher = replace(make_teacher_job(folder), plan=job.plan, method=Slow())
    link = LinkConfig(slot_size=2)
    with ThreadPoolExecutor() as threads:
        training = threads.submit(trainer.run_training, slow, teacher, layout, link, checkpoints, tell)
        change(cluster, checkpoints, training)
        weights = training.result()
    print("ranks", [log.header.world_size for log in read_logs(checkpoints) if log.header.rank == 0])
    print(*verify(folder / "run"), sep="\n")
    alone = TrainState(job.build(), job.training)
    train_alone(job, alone)
    for name, tensor in alone.result().items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=1e-2)
    print("weights as of one rank")
    ray.shutdown()
    cluster.shutdown()


def change(cluster: Cluster, checkpoints: Path, training: Future[Any]) -> None:
    """A node joins after the first steps of one rank, and is lost after some of three."""
    wait_for(checkpoints, training, lambda log: log.header.world_size == 1 and len(log.lines) > 15)
    node = cluster.add_node(num_cpus=2)
    wait_for(checkpoints, training, lambda log: log.header.world_size == 3 and len(log.lines) > 15)
    cluster.remove_node(node, allow_graceful=False)


def wait_for(checkpoints: Path, training: Future[Any], happened: Callable[[Log], bool]) -> None:
    while not training.done() and not any(map(happened, read_logs(checkpoints))):
        time.sleep(0.2)


def tell(update: Update) -> None:
    for note in update.notes:
        print(note)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
