"""What of the cluster elastic students must leave to the teachers.

Ray Train decides how many ranks there is room for by what the nodes *have*, less what its coordinator knows to be
reserved. Of actors it knows nothing: without this it would start ranks where teachers sit, and wait for ever.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Iterator

import ray

from mtkd_dist.pools.placement import PoolSize

EXPIRE_SECONDS = 120.0
"""A launch that is killed leaves its reservation behind for so long."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def reserved(pool: PoolSize) -> Iterator[None]:
    """Keep room for the workers of `pool` for as long as the block lasts; to be entered before students start."""
    # Not public, and slow to import: only here, where nothing public does it.
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        ResourceRequestPriority,
        get_or_create_autoscaling_coordinator,
    )

    coordinator = get_or_create_autoscaling_coordinator()
    name = f"mtkd-teachers-{uuid.uuid4().hex}"
    worker = {"CPU": pool.cpus, "GPU": pool.gpus} if pool.gpus else {"CPU": pool.cpus}

    def renew() -> None:
        ray.get(
            coordinator.request_resources.remote(
                requester_id=name,
                resources=[worker] * pool.workers,
                expire_after_s=EXPIRE_SECONDS,
                # That of Ray Train's own requests; among equals, the first one comes first.
                priority=ResourceRequestPriority.HIGH,
            ),
            timeout=EXPIRE_SECONDS / 4,
        )

    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(EXPIRE_SECONDS / 4):
            try:
                renew()
            except (ray.exceptions.RayError, TimeoutError):
                logger.warning("the room of the teachers could not be reserved again", exc_info=True)

    renew()
    threading.Thread(target=keep, name="reservation", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        coordinator.cancel_request.remote(requester_id=name)
