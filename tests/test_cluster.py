"""Which Ray cluster a run uses, and who else may use it."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from mtkd_dist.config.load import load_config
from mtkd_dist.config.tree import ClusterConfig
from mtkd_dist.pools.cluster import ClusterError, address_of, check_dashboard, cluster


def test_address_is_short_for_the_key_of_the_cluster() -> None:
    for argv in (["--address", "head:6379"], ["--address=head:6379"], ["--cluster.address", "head:6379"]):
        assert load_config(argv).cluster.address == "head:6379"


@pytest.mark.parametrize(
    ("address", "environ", "joined"),
    [
        (None, {}, None),
        (None, {"RAY_ADDRESS": ""}, None),
        (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.1:6379"),  # what `ray job submit` sets
        ("auto", {}, "auto"),
        ("head:6379", {"RAY_ADDRESS": "10.0.0.1:6379"}, "head:6379"),
        ("local", {"RAY_ADDRESS": "10.0.0.1:6379"}, None),
    ],
)
def test_the_key_wins_over_ray_address_which_wins_over_a_cluster_of_this_machine(
    address: str | None, environ: dict[str, str], joined: str | None
) -> None:
    assert address_of(ClusterConfig(address=address), environ) == joined


@pytest.mark.parametrize("address", ["ray://head:10001", "http://head:8265"])
def test_addresses_of_ray_client_and_of_the_job_server_are_refused_with_what_to_do(address: str) -> None:
    with pytest.raises(ClusterError, match=r"ray job submit -- python -m mtkd_dist\.launch"):
        address_of(ClusterConfig(address=address), {})


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "::1", "localhost"])
def test_a_dashboard_on_the_loopback_needs_no_token(host: str) -> None:
    check_dashboard(ClusterConfig(dashboard_host=host), {"RAY_AUTH_MODE": "disabled"})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "head.example.com", ""])
def test_a_dashboard_that_others_reach_is_refused_without_a_token(host: str) -> None:
    config = ClusterConfig(dashboard_host=host)
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE=disabled turns tokens off"):
        check_dashboard(config, {"RAY_AUTH_MODE": "disabled"})
    check_dashboard(config, {"RAY_AUTH_MODE": "token"})
    check_dashboard(config, {})  # Ray turns tokens on by itself
    check_dashboard(ClusterConfig(dashboard=False, dashboard_host=host), {"RAY_AUTH_MODE": "disabled"})


def test_an_address_where_nobody_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ClusterError, match=f"nobody answers at {address}"), cluster(ClusterConfig(address)):
            raise AssertionError("joined a cluster that does not exist")


def test_a_cluster_that_cannot_be_started_is_told_with_what_ray_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(ClusterError, match=r"cannot start .*: The current node timed out"), cluster(ClusterConfig()):
        raise AssertionError("there is no cluster")


JOIN = """
import sys
from mtkd_dist.config.tree import ClusterConfig
from mtkd_dist.pools.cluster import ClusterError, cluster

try:
    with cluster(ClusterConfig(address=sys.argv[1] or None, dashboard=False), print) as resources:
        print(f"{resources.cpus} CPUs")
except ClusterError as error:
    print(error)
"""


def join(address: str, home: Path, code: str = JOIN, **environ: str) -> str:
    """What a process with a home of its own says that joins the cluster at `address`, or starts one where that is
    empty. Nothing of this process's authentication reaches it."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    command = [sys.executable, "-c", code, address]
    home.mkdir(exist_ok=True)
    return subprocess.run(
        command, env=inherited | {"HOME": str(home)} | environ, capture_output=True, text=True, timeout=120, check=True
    ).stdout


def test_a_cluster_of_this_machine_asks_for_a_token_that_only_its_user_can_read(tmp_path: Path) -> None:
    assert "CPUs" in join("", tmp_path)
    token = tmp_path / ".ray" / "auth_token"
    assert token.read_text()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def head(**environ: str) -> Iterator[str]:
    """Address of a cluster of its own, started as on a head node; with a dashboard where `DASHBOARD` is its port."""
    port, dashboard = free_port(), environ.pop("DASHBOARD", None)
    flags = ["--head", "--block", f"--port={port}", "--num-cpus=2"]
    # Of its own as well: by default the agent that takes jobs listens where that of any other cluster here does.
    flags += [f"--dashboard-agent-listen-port={free_port()}"]
    flags += [f"--dashboard-port={dashboard}"] if dashboard else ["--include-dashboard=false"]
    # Ray's sockets lie in it, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        command = [str(Path(sys.executable).with_name("ray")), "start", *flags, f"--temp-dir={folder}"]
        with Path(folder, "start.log").open("w") as log:
            started = subprocess.Popen(command, env=os.environ | environ, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while "Ray runtime started" not in Path(folder, "start.log").read_text():
                assert started.poll() is None, Path(folder, "start.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield f"127.0.0.1:{port}"
        finally:
            started.terminate()
            started.wait(60)


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    with head(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="right") as address:
        yield address


@pytest.mark.slow  # Ray tries for 20 s to connect with a wrong token
@pytest.mark.parametrize(
    "environ",
    [{}, {"RAY_AUTH_MODE": "token"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "wrong"}],
    ids=["mode unset", "no token", "wrong token"],
)
def test_a_cluster_is_not_joined_without_its_token_and_says_so(
    guarded: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    said = join(guarded, tmp_path, **environ)
    assert f"the Ray cluster at {guarded} wants its token" in said
    assert "~/.ray/auth_token" in said


@pytest.mark.slow
def test_the_right_token_joins_by_flag_and_by_ray_address_without_a_warning(guarded: str, tmp_path: Path) -> None:
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "right"}
    assert join(guarded, tmp_path, **environ) == "2 CPUs\n"
    assert join("", tmp_path, RAY_ADDRESS=guarded, **environ) == "2 CPUs\n"


@pytest.mark.slow
def test_a_job_of_a_cluster_joins_it_without_being_told_where_it_is(tmp_path: Path) -> None:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "right"}
    port = free_port()
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", f"--address=http://127.0.0.1:{port}", "--"]
    (tmp_path / "join.py").write_text(JOIN)
    with head(DASHBOARD=str(port), **token):
        deadline = time.monotonic() + 120
        while True:
            command = [*submit, sys.executable, str(tmp_path / "join.py"), ""]
            done = subprocess.run(
                command, env=os.environ | token, capture_output=True, text=True, timeout=200, check=False
            )
            # A head node takes jobs a while after it takes workers.
            if "No available agent" not in done.stderr or time.monotonic() > deadline:
                break
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n2 CPUs\n" in done.stdout
    assert "takes orders from anybody" not in done.stdout


@pytest.mark.slow
def test_a_cluster_of_another_version_is_not_joined_and_both_versions_are_told(guarded: str, tmp_path: Path) -> None:
    other = "import ray._private.utils\nray._private.utils.compute_version_info = lambda: ('2.59.0', '3.11.1')\n"
    said = join(guarded, tmp_path, other + JOIN, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="right")
    assert "all nodes need the same Ray and Python" in said
    assert "Ray: 2.59.0" in said
    assert f"Ray: {ray.__version__}" in said


@pytest.mark.slow
def test_a_cluster_without_tokens_is_joined_with_a_warning(tmp_path: Path) -> None:
    with head(RAY_AUTH_MODE="disabled") as address:
        said = join(address, tmp_path)
    assert f"the Ray cluster at {address} takes orders from anybody" in said
    assert said.endswith("2 CPUs\n")
