"""Joining or starting a Ray cluster, and what it has."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

import ray
from ray.exceptions import AuthenticationError

from mtkd_dist.config.tree import ClusterConfig
from mtkd_dist.pools.placement import Resources


class ClusterError(RuntimeError):
    """Ray could not be reached; the message says what was tried."""


@contextlib.contextmanager
def cluster(config: ClusterConfig) -> Iterator[Resources]:
    """A running Ray cluster for as long as the block lasts, and its resources.

    One that this process has already joined is used as it is and left running; otherwise `config.address` is joined,
    or a cluster of this machine alone is started and stopped again.
    """
    if ray.is_initialized():
        yield resources()
        return
    _connect(config)
    try:
        yield resources()
    finally:
        ray.shutdown()


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Schedulers end a job with SIGTERM: like Ctrl-C, so that tracking is told and Ray's processes are ended.

    To be entered once Ray is up: joining a cluster installs a handler of Ray's own, which aborts the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        # None stands for a handler that Python did not install, and cannot put back.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def resources() -> Resources:
    total = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Resources(
        cpus=int(total.get("CPU", 0)),
        gpus=int(total.get("GPU", 0)),
        nodes=nodes,
        object_store_bytes=int(total.get("object_store_memory", 0)),
    )


def _connect(config: ClusterConfig) -> None:
    # Authentication is left to Ray: for a cluster of this machine it turns tokens on (~/.ray/auth_token) unless
    # RAY_AUTH_MODE says otherwise. The variable is read when Ray is imported, so setting it here would come too late.
    # Usage statistics would ask for the network, and the log of a run is no place for its notice.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would free objects once a second: what students are done with in that time would lie above link.max_bytes.
    os.environ.setdefault("RAY_free_objects_period_milliseconds", "0")
    try:
        ray.init(
            address=config.address or "local",
            include_dashboard=config.dashboard if config.address is None else None,
            dashboard_host="127.0.0.1",
            logging_level=logging.INFO,
            log_to_driver=True,
        )
    except AuthenticationError as error:
        raise ClusterError(
            f"the Ray cluster at {config.address} wants its token: put it into RAY_AUTH_TOKEN or ~/.ray/auth_token "
            "and set RAY_AUTH_MODE=token"
        ) from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"the Ray cluster at {config.address}" if config.address else "a Ray cluster on this machine"
        raise ClusterError(f"cannot use {where}: {error}") from error
