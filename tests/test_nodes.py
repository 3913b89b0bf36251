from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_teachers_of_a_cluster_without_gpus_leave_room_for_a_student_of_several_cores() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.two_nodes", "told"],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    placed = json.loads(done.stdout.splitlines()[-1])
    assert placed["students"]
    # One node is left to the student, but for a core.
    assert sorted(placed["teachers"].count(node) for node in (0, 1)) == [1, 4]
