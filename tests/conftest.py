from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.objects import Objects

# A property that holds is not refuted by a busy machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Set before anything imports Ray: a local `ray.init()` of Ray 2.60 otherwise turns token auth on and writes into HOME.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


EXIT_STATUS = pytest.StashKey[int]()


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """A worker that a test runs in this process takes them for zeros; what else runs here wants them back."""
    yield
    torch.set_flush_denormal(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # When the processes of a cluster get the processor is up to the machine. Who fails twice is wrong; who fails
        # once is told of as a rerun.
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=1))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the process at once where it has a Ray cluster, which ends with it.

    Trainings that a test broke off live on in threads, and one that calls Ray while Ray is being shut down crashes the
    process now and then (a general protection fault in its C++ library), after all tests have passed. Everything is
    told by now.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[EXIT_STATUS])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[EXIT_STATUS] = int(exitstatus)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder `shared/` beside the checkout: real images and weights that are not part of the project."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"real images and weights are not at hand: {path.name}/ beside the checkout is absent")
    return path


@pytest.fixture(scope="session")
def ray_cluster() -> None:
    """One Ray cluster for all tests that need one: four logical GPUs on a machine that has none. It ends with the
    process: see `pytest_unconfigure`."""
    import ray

    ray.init(address="local", num_cpus=8, num_gpus=4, include_dashboard=False, log_to_driver=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, metavar="DIR", help="keep what tests photograph of pages in DIR")


@pytest.fixture
def screenshots(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Folder for pictures of pages: that of `--screenshots`, or one that pytest keeps for a while."""
    return request.config.getoption("--screenshots") or tmp_path


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Objects]]:
    """An empty object store at `objects://`, and a cache of this machine that is empty too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Objects.empty()
    yield Objects
    Objects.empty()
