from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from benchmarks.results_table import Table

# Set before anything imports Ray: see tests/conftest.py.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# As `mtkd_dist.pools.cluster` does.
os.environ.setdefault("RAY_free_objects_period_milliseconds", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="put the tables into benchmarks/results/")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=max(2, os.cpu_count() or 2), include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for table in Table.tables:
        if table.rows:
            terminalreporter.write_line("")
            terminalreporter.write_line(table.markdown())
            if config.getoption("--write"):
                terminalreporter.write_line(f"written to {table.write()}")
