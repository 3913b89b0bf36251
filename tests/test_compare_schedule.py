"""Cells as Ray tasks: what runs side by side, what waits for what, and what a failure costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mtkd_dist.compare import schedule
from mtkd_dist.compare.room import Room
from mtkd_dist.compare.schedule import run_works
from mtkd_dist.compare.work import Work
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.pools.placement import PoolSize

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ROOM = Room(PoolSize(1, 1.0, 0.0), None)
KD, MTKD = ([Work(method, ("a",), seed) for seed in (0, 1)] for method in ("kd", "mtkd"))


def outcomes(
    monkeypatch: pytest.MonkeyPatch, folder: Path, works: list[Work], do: Callable[..., Any], room: Room = ROOM
) -> dict[Work | None, Any]:
    """What becomes of works whose cells `do` makes, where the aggregator of seed 1 fails."""
    monkeypatch.setattr(schedule, "do_work", do)
    monkeypatch.setattr(schedule, "train_aggregator", aggregator_of)
    monkeypatch.setattr(schedule, "_references", references)
    shared: Any = SimpleNamespace(pool=room.cell, folder=folder, config=PRESETS["demo-compare"]())
    return dict(run_works(shared, works, room, retries=1, stop=lambda: None))


def aggregator_of(shared: Any, seed: int) -> Path:
    if seed == 1:
        raise ValueError("the aggregator burst")
    return Path(f"aggregator-{seed}")


def references(shared: Any, seeds: list[int], *aggregators: Path) -> dict[int, Path]:
    return dict(zip(seeds, aggregators, strict=True))


def named(shared: Any, work: Work, aggregator: Path | None) -> list[Any]:
    return [work.method, aggregator]


def meets_the_other(shared: Any, work: Work, aggregator: Path | None) -> list[Any]:
    (shared.folder / str(work.seed)).touch()
    return [seen_within(60, shared.folder / str(1 - work.seed))]


def meets_nobody(shared: Any, work: Work, aggregator: Path | None) -> list[Any]:
    (shared.folder / str(work.seed)).touch()
    met = seen_within(0.5, shared.folder / str(1 - work.seed))
    (shared.folder / str(work.seed)).unlink()
    return [not met]


def seen_within(seconds: float, path: Path) -> bool:
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.exists()


def dies_once(shared: Any, work: Work, aggregator: Path | None) -> list[Any]:
    died = shared.folder / f"died-{work.seed}"
    if not died.exists():
        died.touch()
        os._exit(1)
    return ["alive"]


def test_cells_run_side_by_side_where_there_is_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = outcomes(monkeypatch, tmp_path, KD, meets_the_other)
    assert [found[work] for work in KD] == [[True], [True]]


def test_no_more_cells_run_than_the_comparison_has_gpus_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one_at_a_time = Room(PoolSize(1, 1.0, 1.0), 1)
    found = outcomes(monkeypatch, tmp_path, KD, meets_nobody, one_at_a_time)
    assert [found[work] for work in KD] == [[True], [True]]


def test_an_aggregator_that_fails_costs_the_cells_of_its_seed_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = outcomes(monkeypatch, tmp_path, [*KD, *MTKD], named)
    assert [found[work] for work in KD] == [["kd", None]] * 2
    assert found[MTKD[0]] == ["mtkd", Path("aggregator-0")]
    assert found[MTKD[1]] == "ValueError: the aggregator burst"
    assert found[None] == {0: Path("aggregator-0")}


def test_a_cell_whose_process_dies_is_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = outcomes(monkeypatch, tmp_path, KD, dies_once)
    assert [found[work] for work in KD] == [["alive"], ["alive"]]
