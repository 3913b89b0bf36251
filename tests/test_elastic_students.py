from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_students_become_more_with_a_node_and_fewer_without_and_the_result_is_that_of_one_rank(tmp_path: Path) -> None:
    """A process of its own: see there."""
    command = [sys.executable, "-m", "tests.elastic_students", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ranks [1, 3, 1]" in done.stdout
    assert "0 lost, 0 repeated, 0 wrong" in done.stdout
    assert "weights as of one rank" in done.stdout
