"""Joining or starting a Ray cluster, and what it has."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import ray
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtkd_dist.config.tree import ClusterConfig
from mtkd_dist.pools.errors import ClusterError
from mtkd_dist.pools.placement import Resources

REACH_SECONDS = 10.0
"""So long the head node of a cluster has to take a connection. Ray itself would go on trying for many minutes."""
SEE_SECONDS = 5.0
"""So long a node may take to see a new file of another one."""
ACCELERATOR = "accelerator_type:"
"""Ray has a resource of this name for each type of GPU."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def cluster(config: ClusterConfig, warn: Callable[[str], None] = lambda text: None) -> Iterator[Resources]:
    """A running Ray cluster for as long as the block lasts, and its resources.

    One that this process has already joined is used as it is and left running. Otherwise the one at `config.address` is
    joined, or at RAY_ADDRESS (which `ray job submit` sets), or one of this machine alone is started and stopped again.
    `warn` is told where a cluster takes orders from anybody. Errors: ClusterError.
    """
    if ray.is_initialized():
        yield resources()
        return
    address = address_of(config, os.environ)
    if address is None:
        check_dashboard(config, os.environ)
        _start(config)
    else:
        _join(address)
        if not _wants_tokens(os.environ):
            warn(
                f"the Ray cluster at {address} takes orders from anybody who can reach it: it runs without a token "
                "(RAY_AUTH_MODE=token on all of its nodes turns that on)"
            )
    try:
        yield resources()
    finally:
        ray.shutdown()


def address_of(config: ClusterConfig, environ: Mapping[str, str]) -> str | None:
    """Where the cluster to join is, or None to start one of this machine. Errors: ClusterError."""
    address = config.address or environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        return None
    if "://" in address:
        raise ClusterError(
            f"cluster.address: {address!r} cannot be used: pools and images need a driver on a node of the cluster, "
            "which an address of Ray Client or of the job server does not give; expected HOST:6379 or auto, on a node "
            "of the cluster, or as a job of it: ray job submit -- python -m mtkd_dist.launch ..."
        )
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal()):
        raise ClusterError(
            f"cluster.address: {address!r} is no address of a Ray cluster; expected HOST:6379 of its head node, auto "
            "for one that runs on this machine, or local to start one"
        )
    return address


def check_dashboard(config: ClusterConfig, environ: Mapping[str, str]) -> None:
    """Whoever reaches a dashboard can run code on the cluster. Errors: ClusterError for one that is open to all."""
    if not config.dashboard or _is_loopback(config.dashboard_host):
        return
    if not _starts_with_tokens(environ):
        raise ClusterError(
            f"cluster.dashboard_host: {config.dashboard_host!r} would let everybody who reaches this machine run code "
            f"on it, because RAY_AUTH_MODE={environ['RAY_AUTH_MODE']} turns tokens off; unset RAY_AUTH_MODE or set it "
            "to token, or keep 127.0.0.1 and reach the dashboard through an SSH tunnel (ssh -L 8265:127.0.0.1:8265)"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _wants_tokens(environ: Mapping[str, str]) -> bool:
    return environ.get("RAY_AUTH_MODE", "").lower() == "token"


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Schedulers end a job with SIGTERM: like Ctrl-C, so that tracking is told and Ray's processes are ended.

    To be entered once Ray is up: joining a cluster installs a handler of Ray's own, which aborts the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        # None stands for a handler that Python did not install, and cannot put back.
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def interrupt(number: int, frame: FrameType | None) -> None:
    """What SIGTERM does under `sigterm_as_interrupt`."""
    handler = signal.getsignal(signal.SIGINT)
    # A job in the background of a shell ignores Ctrl-C, which SIGTERM is not to be ignored with.
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


def resources() -> Resources:
    total = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Resources(
        cpus=int(total.get("CPU", 0)),
        gpus=int(total.get("GPU", 0)),
        nodes=nodes,
        object_store_bytes=int(total.get("object_store_memory", 0)),
        accelerators=tuple(sorted(name.partition(":")[2] for name in total if name.startswith(ACCELERATOR))),
    )


def has_real_gpus() -> bool:
    """False where GPUs are only logical. The driver's machine may have none; Ray names the type of those that are."""
    return any(name.startswith(ACCELERATOR) for name in ray.cluster_resources())


def spilled_bytes() -> int | None:
    """What Ray has written to disk, on all nodes since the cluster began, because the object store was full.

    About 10 ms; None where Ray does not tell: its public interface has no such number.
    """
    try:
        from ray._private.internal_api import get_memory_info_reply
        from ray._private.state import state

        return int(get_memory_info_reply(state, timeout_seconds=5).store_stats.spilled_bytes_total)
    except Exception:  # a number for the screen is no reason to stop, whatever a later Ray does here
        logger.debug("Ray does not tell what it spilled", exc_info=True)
        return None


def _starts_with_tokens(environ: Mapping[str, str]) -> bool:
    """Ray turns tokens on for a cluster that it starts, unless RAY_AUTH_MODE says otherwise.

    That is left to Ray, which reads the variable when it is imported: setting it here would come too late.
    """
    return _wants_tokens({"RAY_AUTH_MODE": "token", **environ})


def unseen(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Address of each node that does not see all of these paths of this machine -> those that it lacks."""
    given = [os.path.abspath(path) for path in paths]
    look = ray.remote(num_cpus=0, max_retries=0)(_missing)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = look.options(scheduling_strategy=here).remote(given)
    answers = {node: ray.get(answer) for node, answer in asked.items()}
    return {node: missing for node, missing in answers.items() if missing}


def _missing(paths: list[str]) -> list[str]:
    """A network file system may show what is new a few seconds late."""
    deadline = time.monotonic() + SEE_SECONDS
    while (missing := [path for path in paths if not os.path.exists(path)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    return missing


def _start(config: ClusterConfig) -> None:
    if _starts_with_tokens(os.environ):
        _keep_token_private()
    try:
        _init("local", include_dashboard=config.dashboard, dashboard_host=config.dashboard_host)
    except Exception as error:  # of a node that is too slow to start, Ray raises one without a type of its own
        raise ClusterError(f"cannot start a Ray cluster on this machine: {error}") from error


def _keep_token_private() -> None:
    """Ray writes its token with the rights that other files get, so that other users of the machine may read it.

    An empty file stands for no token, and keeps its rights when Ray writes into it.
    """
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # a home that cannot be written to: Ray says so, if it needs the file
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch(mode=0o600)
        token.chmod(0o600)


def _join(address: str) -> None:
    where = f"the Ray cluster at {address}"
    reach(address)
    try:
        _init(address)
    except (AuthenticationError, ConnectionError, ValueError, RuntimeError) as error:
        if _about_token(error):
            raise ClusterError(
                f"{where} wants its token: put it into ~/.ray/auth_token or RAY_AUTH_TOKEN, the same on all nodes, and "
                f"set RAY_AUTH_MODE=token (now {os.environ.get('RAY_AUTH_MODE', 'unset')})"
            ) from error
        if "ersion mismatch" in str(error):
            raise ClusterError(
                f"{where} runs other versions than this process; all nodes need the same Ray and Python. {error}"
            ) from error
        raise ClusterError(f"cannot join {where}: {error}; is it running (ray status, on its head node)?") from error


def reach(address: str) -> None:
    """`address`: HOST:PORT, or auto, which Ray looks up. Errors: ClusterError where nobody listens."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"nobody answers at {address} ({error}); expected the head node of a running Ray cluster: is it up (ray "
            "status, there), and may this machine reach the port?"
        ) from error


def _about_token(error: BaseException | None) -> bool:
    """Ray tries for 20 s to connect with a wrong token, and then hands on the text of the reason, not its type."""
    while error is not None:
        if isinstance(error, AuthenticationError) or "AuthenticationError" in str(error):
            return True
        error = error.__cause__
    return False


def _init(address: str, **options: object) -> None:
    # Usage statistics would ask for the network, and the log of a run is no place for its notice.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would free objects once a second: what students are done with in that time would lie above link.max_bytes.
    os.environ.setdefault("RAY_free_objects_period_milliseconds", "0")
    ray.init(address=address, logging_level=logging.INFO, log_to_driver=True, **options)
