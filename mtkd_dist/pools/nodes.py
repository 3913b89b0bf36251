"""On which nodes the workers of a stage run, where Ray left to itself would not find room for all."""

from __future__ import annotations

import time
from typing import TypeAlias

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtkd_dist.pools.placement import Layout
from mtkd_dist.pools.split import place

SETTLE_SECONDS = 5.0
"""So long Ray may take to tell of cores that the stage before has just freed."""
SchedulingStrategy: TypeAlias = NodeAffinitySchedulingStrategy | str


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """For actors that must outlive every node but the driver's, which a run cannot do without."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def teacher_strategies(layout: Layout) -> list[SchedulingStrategy] | None:
    """One for each teacher worker: away from the nodes that the students are to have. None: Ray decides.

    Ray fills nodes one after the other until half of their cores are taken, then it spreads. With GPUs it never comes
    to that, as pools reserve at most half of the cores: teachers fill node after node, and the students, which Ray
    Train packs, find the rest together. Of cores, it would leave some on every node and no room for a student of
    several. Once the teachers run, Ray Train finds the room that was made. The affinity is soft: a worker whose node
    is gone starts on another one.
    """
    teachers, students = layout.teachers, layout.students
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    if teachers is None or teachers.gpus or students.cpus < 1 or len(alive) < 2:
        return None
    # Not public: only here, so that a release of Ray without it takes no run with it that does not come by.
    from ray._private.state import available_resources_per_node

    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        free = {node: there.get("CPU", 0) for node, there in available_resources_per_node().items() if node in alive}
        placement = place(free, teachers.workers, students.workers, students.threads)
        if placement is not None:
            return [NodeAffinitySchedulingStrategy(node, soft=True) for node in placement.teachers]
        if time.monotonic() > deadline:
            return None
        time.sleep(0.5)
