"""`mtkd doctor`: each check, and each way in which it fails, with what was read made up."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from packaging.requirements import Requirement

from mtkd_dist.doctor import machine, selftest, services
from mtkd_dist.doctor.check import Check, worst
from mtkd_dist.doctor.command import look, main
from mtkd_dist.pools.cluster import reach
from mtkd_dist.tracking.store import problem_at

GB = machine.GB
CPU = torch.device("cpu")


def told(check: Check) -> str:
    """What is found, and what to do about it, which there is exactly where something is not right."""
    assert bool(check.remedy) == (check.status != "ok"), check
    return f"{check.found} -> {check.remedy}"


# The machine


@pytest.mark.parametrize(("version", "status"), [("3.11.7", "ok"), ("3.12.0", "ok"), ("3.10.9", "failed")])
def test_python_is_held_against_the_range(version: str, status: str) -> None:
    check = machine.python(version, ">=3.11")
    assert check.status == status
    assert version in told(check)


VERSIONS = {"torch": "2.13.0+cpu", "ray": "2.60.0"}


@pytest.mark.parametrize(
    ("needed", "status", "words"),
    [
        (["torch>=2.11", "ray[default]<2.62,>=2.59"], "ok", ["torch 2.13.0+cpu, ray 2.60.0", "all 2"]),
        (["torch>=2.14", "ray>=2.59"], "failed", ["torch 2.13.0+cpu (needed: >=2.14)", "pip install 'torch>=2.14'"]),
        (["torch>=2.11", "triton>=3.6"], "failed", ["triton is absent", "pip install 'triton>=3.6'"]),
    ],
)
def test_packages_are_held_against_their_ranges(needed: list[str], status: str, words: list[str]) -> None:
    check = machine.packages([Requirement(text) for text in needed], VERSIONS.get)
    assert check.status == status
    assert all(word in told(check) for word in words)


def test_what_is_needed_here_is_read_without_extras() -> None:
    needed = machine.needed_packages()
    assert needed is not None
    names = {requirement.name for requirement in needed}
    assert {"torch", "ray", "mlflow"} <= names
    assert "pytest" not in names
    assert machine.needed_python() == ">=3.11"
    assert machine.version_of("torch") is not None
    assert machine.version_of("no-such-package") is None


def test_a_folder_that_was_never_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGE", "no-such-package")
    assert machine.needed_packages() is None
    assert machine.not_installed().status == "warning"


def card(free: float) -> machine.Card:
    return machine.Card("NVIDIA H100", int(free * GB), 80 * GB)


@pytest.mark.parametrize(
    ("cards", "driver", "status", "words"),
    [
        ([], False, "ok", ["none", "CPU workers"]),
        ([], True, "failed", ["sees no GPU", "CUDA_VISIBLE_DEVICES"]),
        ([card(79), card(60)], True, "ok", ["NVIDIA H100 (79.0 GB of 80.0 GB free)"]),
        ([card(79), card(0.5)], True, "warning", ["0.5 GB of 80.0 GB", "nvidia-smi"]),
    ],
)
def test_gpus_and_what_is_free_of_them(cards: list[machine.Card], driver: bool, status: str, words: list[str]) -> None:
    check = machine.gpus(cards, "2.13.0+cpu", driver)
    assert check.status == status
    assert all(word in told(check) for word in words)


@pytest.mark.parametrize(("free", "status"), [(None, "ok"), (16, "ok"), (3, "warning"), (0.5, "failed")])
def test_memory(free: float | None, status: str) -> None:
    check = machine.memory(None if free is None else int(free * GB))
    assert check.status == status
    assert told(check)


@pytest.mark.parametrize(
    ("limit", "available"), [(None, 8_000_000 * 1024), ("max", 8_000_000 * 1024), ("3000000000", 2_000_000_000)]
)
def test_the_memory_of_a_container_is_what_it_may_take(limit: str | None, available: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  16000000 kB\nMemAvailable:  8000000 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("1000000000")
    assert machine.available_memory(tmp_path / "meminfo", tmp_path) == available
    assert machine.available_memory(tmp_path / "absent", tmp_path) is None


@pytest.mark.parametrize(("free", "status"), [(100, "ok"), (5, "warning"), (0.1, "failed")])
def test_the_disk_is_that_of_the_output(
    free: float, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    usage = lambda place: asked.append(place) or SimpleNamespace(free=int(free * GB))  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    check = machine.disk(tmp_path / "not" / "yet")
    assert check.status == status
    assert asked == [tmp_path]
    assert told(check)


def test_a_place_that_cannot_be_written_is_named() -> None:
    check = machine.disk(Path("/proc/no/such"))
    assert check.status == "failed"
    assert "/proc cannot be written" in told(check)


@pytest.mark.parametrize(("free", "status"), [(None, "ok"), (2, "ok"), (0.064, "warning")])
def test_the_shared_memory_of_a_container_may_be_too_small(free: float | None, status: str) -> None:
    check = machine.shared_memory(None if free is None else int(free * GB))
    assert check.status == status
    assert status == "ok" or "--shm-size" in told(check)


# Services


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_without_an_address_a_run_starts_its_own_cluster() -> None:
    for environ in ({}, {"RAY_ADDRESS": "local"}):
        check = services.ray_address(None, environ, reach)
        assert check.status == "ok"
        assert "of this machine" in told(check)


def test_a_head_node_that_answers_is_said_to(port: int) -> None:
    for address, environ in ((f"127.0.0.1:{port}", {}), (None, {"RAY_ADDRESS": f"127.0.0.1:{port}"})):
        check = services.ray_address(address, environ, reach)
        assert (check.status, check.found) == ("ok", f"127.0.0.1:{port} answers")
        assert told(check)


def test_a_head_node_that_does_not_answer_fails_with_what_to_do() -> None:
    address = f"127.0.0.1:{free_port()}"
    check = services.ray_address(address, {}, reach)
    assert check.status == "failed"
    assert f"nobody answers at {address}" in told(check)
    assert "ray status" in check.remedy


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    check = services.ray_address(address, {}, reach)
    assert check.status == "failed"
    assert "HOST:6379" in told(check)


def test_of_auto_it_is_not_said_that_somebody_answers() -> None:
    check = services.ray_address("auto", {}, reach)
    assert check.status == "ok"
    assert "answers" not in told(check)
    assert "ray status" in told(check)


TOKEN = {"RAY_AUTH_MODE": "token"}


@pytest.mark.parametrize(
    ("address", "environ", "mode", "status", "words"),
    [
        (None, {}, None, "ok", "will write one"),
        (None, {}, 0o600, "ok", "auth_token"),
        (None, {}, 0o644, "warning", "chmod 600"),
        (None, {"RAY_AUTH_MODE": "disabled"}, None, "warning", "RAY_AUTH_MODE=token"),
        ("head:6379", {}, 0o600, "warning", "RAY_AUTH_MODE=token"),
        (None, {"RAY_ADDRESS": "head:6379"}, 0o600, "warning", "takes orders from anybody"),
        ("head:6379", TOKEN, None, "failed", "copy the head node's file"),
        ("head:6379", TOKEN, 0o600, "ok", "auth_token"),
        ("head:6379", TOKEN, 0o640, "warning", "chmod 600"),
        ("head:6379", TOKEN | {"RAY_AUTH_TOKEN": "secret"}, None, "ok", "in RAY_AUTH_TOKEN"),
        ("head:6379", TOKEN | {"RAY_AUTH_TOKEN_PATH": "/no/such/token"}, 0o600, "failed", "/no/such/token"),
    ],
)
def test_the_token_that_a_run_would_show(
    address: str | None, environ: dict[str, str], mode: int | None, status: str, words: str, tmp_path: Path
) -> None:
    if mode is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
        (tmp_path / ".ray" / "auth_token").chmod(mode)
    check = services.ray_token(address, environ, tmp_path)
    assert check.status == status
    assert words in told(check)
    assert "secret" not in told(check)


def test_mlflow_is_asked_where_the_environment_says() -> None:
    assert services.mlflow(None, problem_at).status == "ok"
    check = services.mlflow("http://tracking:5000", lambda address: "MlflowException: 401")
    assert check.status == "failed"
    assert "http://tracking:5000 does not answer: MlflowException: 401" in told(check)
    assert services.mlflow("http://tracking:5000", lambda address: None).status == "ok"


@pytest.fixture
def server() -> Iterator[Callable[[int, bytes], str]]:
    """Starts a server that answers everything alike; returns its address."""
    servers: list[HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Answer))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def test_a_tracking_server_is_really_asked(
    server: Callable[[int, bytes], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert problem_at(server(200, b'{"experiments": []}')) is None
    refused = problem_at(server(401, b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}'))
    assert refused is not None
    assert "401" in refused or "who are you?" in refused
    assert problem_at(f"http://127.0.0.1:{free_port()}") == "ConnectionRefusedError: [Errno 111] Connection refused"
    assert problem_at(f"sqlite:///{tmp_path / 'mlflow.db'}") is None


# The parts at work


def test_the_kernel_equals_its_reference_here() -> None:
    check = selftest.kernel(CPU)
    assert check.status == "ok"
    assert told(check)


def wrong_value(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return selftest.summed(images, target) * 1.01


def wrong_gradient(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return selftest.summed(images.detach(), target) + 0 * images.sum()


def not_a_number(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return selftest.summed(images, target) * torch.nan


def fails(images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (wrong_value, "is off by 0.01 (loss)"),
        (wrong_gradient, "is off by"),
        (not_a_number, "is off by nan"),
        (fails, "RuntimeError: no kernel image is available"),
    ],
)
def test_a_kernel_that_is_wrong_or_fails_is_told(loss: selftest.Loss, words: str) -> None:
    check = selftest.kernel(CPU, loss)
    assert check.status == "failed"
    assert words in told(check)
    assert "triton" in check.remedy


@pytest.mark.usefixtures("ray_cluster")
def test_a_training_through_a_link_works_here(tmp_path: Path) -> None:
    check = selftest.training(tmp_path, None)
    assert check.status == "ok"
    assert "4 steps through a link on Ray, no sample lost or repeated" in told(check)


# The command


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which all is well, whatever this one is."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(machine, "available_memory", lambda: 64 * GB)
    monkeypatch.setattr(machine, "free_shared_memory", lambda: 32 * GB)
    monkeypatch.setattr(machine, "cards", list)
    monkeypatch.setattr(machine, "has_driver", lambda: False)
    monkeypatch.setattr(machine, "version_of", lambda name: "999")
    monkeypatch.setattr(machine, "needed_packages", lambda: [Requirement("torch>=2.11")])
    monkeypatch.setattr(machine, "LITTLE_DISK", 0)
    monkeypatch.setattr(machine, "TOO_LITTLE_DISK", 0)
    monkeypatch.setattr(services, "ray_token", lambda *_: Check("ray token", "ok", "there"))


NAMES = ["python", "packages", "gpu", "memory", "disk", "object store"]
NAMES += ["ray address", "ray token", "mlflow", "kernel"]


@pytest.mark.usefixtures("healthy")
def test_a_healthy_machine_is_0_with_a_line_for_each_check(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--output", str(tmp_path), "--quiet"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * len(NAMES)
    assert [line[9:22].strip() for line in lines] == NAMES


@pytest.mark.usefixtures("healthy")
def test_a_check_that_fails_is_1_with_what_to_do_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 1)
    monkeypatch.setattr(machine, "free_shared_memory", lambda: 1)
    assert main(["--quick", "--output", str(tmp_path)]) == 1
    lines = capfd.readouterr().out.splitlines()
    (failed,) = [i for i, line in enumerate(lines) if line.startswith("failed")]
    assert "memory" in lines[failed]
    assert "--cluster.teacher-workers" in lines[failed + 1]
    (warned,) = [i for i, line in enumerate(lines) if line.startswith("warning")]
    assert "--shm-size" in lines[warned + 1]


@pytest.mark.usefixtures("healthy")
def test_a_warning_alone_is_no_failure_and_json_has_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "free_shared_memory", lambda: 1)
    assert main(["--quick", "--output", str(tmp_path), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["status"] == "warning"
    assert [check["name"] for check in found["checks"]] == NAMES
    assert {check["name"]: check["status"] for check in found["checks"]}["object store"] == "warning"


@pytest.mark.usefixtures("healthy")
def test_a_check_that_cannot_be_made_has_failed_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> list[machine.Card]:
        raise RuntimeError("CUDA driver initialization failed")

    monkeypatch.setattr(machine, "cards", fail)
    assert main(["--quick", "--output", str(tmp_path), "--json"]) == 1
    found = {check["name"]: check for check in json.loads(capfd.readouterr().out)["checks"]}
    assert [*found] == NAMES
    assert found["gpu"]["status"] == "failed"
    assert "CUDA driver initialization failed" in found["gpu"]["found"]


@pytest.mark.usefixtures("healthy")
@pytest.mark.parametrize("reached", ["ok", "failed"])
def test_nothing_is_trained_on_a_cluster_that_does_not_answer(
    reached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "ray_address", lambda *_: Check("ray address", reached, "x", "y"))  # type: ignore[arg-type]
    monkeypatch.setattr(selftest, "training", lambda *_: Check("training", "ok", "done"))
    begun: list[str] = []
    names = [check.name for check in look(tmp_path, None, False, begun.append)]
    assert names == NAMES + (["training"] if reached == "ok" else [])
    assert any("Ray starts" in text for text in begun) == (reached == "ok")


def test_the_worst_counts() -> None:
    one, two, three = Check("a", "ok", ""), Check("b", "warning", "", "x"), Check("c", "failed", "", "x")
    assert [worst(found) for found in ([], [one], [two, one], [one, three, two])] == ["ok", "ok", "warning", "failed"]
