"""On which nodes the workers of a stage run, as far as Ray lets us say so."""

from __future__ import annotations

import time
from typing import TypeAlias

import ray
from ray._private.state import available_resources_per_node
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtkd_dist.pools.placement import Layout
from mtkd_dist.pools.split import place

SETTLE_SECONDS = 5.0
"""So long Ray may take to tell of devices that the stage before has just freed."""
SchedulingStrategy: TypeAlias = NodeAffinitySchedulingStrategy | str


def teacher_strategies(layout: Layout) -> list[SchedulingStrategy] | None:
    """One for each teacher worker: away from the nodes that the students are to have. None: Ray decides.

    Left to itself, Ray fills half of every node, and the students, which it packs (Ray Train's `PACK`), find what is
    left on all of them. Of the students nothing is said here: once the teachers run, PACK finds the room made for them.
    The affinity is soft: a worker whose node is gone starts on another one.
    """
    teachers = layout.teachers
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    if teachers is None or len(alive) < 2:
        return None
    kind, size = ("GPU", layout.students.gpus) if teachers.gpus else ("CPU", layout.students.cpus)
    if size < 1:
        return None
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        free = {node: there.get(kind, 0) for node, there in available_resources_per_node().items() if node in alive}
        placement = place(free, teachers.workers, layout.students.workers, int(size))
        if placement is not None:
            return [NodeAffinitySchedulingStrategy(node, soft=True) for node in placement.teachers]
        if time.monotonic() > deadline:
            return None
        time.sleep(0.5)
