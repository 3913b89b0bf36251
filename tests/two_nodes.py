"""Where the workers of a stage come to lie on two nodes of four cores; prints JSON. Run by test_nodes.py, in a process
of its own, since a process can be in one cluster only.
"""

from __future__ import annotations

import json
import sys

import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group

from mtkd_dist.pools.nodes import teacher_strategies
from mtkd_dist.pools.placement import Resources, plan_layout


@ray.remote(num_cpus=1)
class Worker:
    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


def main(told: bool) -> dict[str, object]:
    """Nodes of the teachers, and whether the students have started within 10 s."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    cluster.add_node(num_cpus=4)
    ray.init(address=cluster.address, log_to_driver=False)
    layout = plan_layout(Resources(8, 0, 2), needs_teachers=True, slots_per_step=4, teacher_workers=5)
    assert (layout.students.workers, layout.students.cpus) == (1, 3)
    nodes = [node["NodeID"] for node in ray.nodes()]
    strategies = (teacher_strategies(layout) if told else None) or ["DEFAULT"] * 5
    workers = [Worker.options(scheduling_strategy=strategy).remote() for strategy in strategies]
    teachers = sorted(nodes.index(node) for node in ray.get([worker.node.remote() for worker in workers]))
    # As Ray Train asks for them.
    group = placement_group([{"CPU": layout.students.cpus}], strategy="PACK")
    return {"teachers": teachers, "students": group.wait(10)}


if __name__ == "__main__":
    print(json.dumps(main(told=sys.argv[1] == "told")))
