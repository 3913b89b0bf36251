"""Run by `test_link_on_ray`: a Ray cluster of three nodes, of which one with a teacher and its answers is taken away.

Prints the longest time in seconds that the student waited for a batch, and how often answers could not be read. A
process of its own, because the other tests share another cluster.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.board import BoardActor
from mtkd_dist.pools.placement import PoolSize
from mtkd_dist.pools.teacher_pool import TeacherPool
from mtkd_dist.pools.teacher_worker import TeacherWorker
from mtkd_dist.train import link_source as source_module
from mtkd_dist.train.link_source import LinkSource
from mtkd_dist.train.source import Share
from tests.nets import make_plan, make_store, make_teacher_job

STEPS, LOST_AT = 24, 12


class Count(logging.Handler):
    """Of the warnings that answers cannot be read."""

    unreadable = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.unreadable += "cannot be read" in record.getMessage()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    job = make_teacher_job(folder)
    # Larger than 100 KiB, below which Ray keeps answers with their owner instead of in the object store of a node.
    store = make_store(folder / "large", side=256)
    job = dataclasses.replace(job, images=store.folder, plan=make_plan(store, patch=64))
    honest = TeacherWorker(job)
    count = Count()
    source_module.logger.addHandler(count)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 << 20})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=200 << 20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    config = LinkConfig(slot_size=2, window_steps=4, min_teachers=2)
    with TeacherPool(job, PoolSize(2, cpus=1, gpus=0), STEPS, 2, config, BoardActor.remote()) as pool:
        share = Share(job.images, job.plan, job.slot_size, [0, 1])
        source = LinkSource(lambda: pool.links, 1, 0, 1, share, torch.device("cpu"))
        waits = []
        for step in range(STEPS):
            if step == LOST_AT:
                time.sleep(2)  # until the window is full of answers
                cluster.remove_node(nodes[0], allow_graceful=False)
            began = time.monotonic()
            batch = source.fetch(step)
            waits.append(time.monotonic() - began)
            expected = np.concatenate([honest.answer(step, slot)[1]["signals"]["teachers"] for slot in (0, 1)])
            assert np.array_equal(batch.signals["teachers"].numpy(), expected), step
        print(f"{max(waits[LOST_AT:]):.1f} s, {count.unreadable} times unreadable")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
