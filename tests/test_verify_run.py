"""`mtkd verify-run` on what two ranks with uneven shares write down, from whichever source their samples come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mtkd_dist.data import ImageStore
from mtkd_dist.habits import EXIT_FAILED, EXIT_OK
from mtkd_dist.methods import Supervised
from mtkd_dist.pools.render import RenderedTeachers
from mtkd_dist.train.cached_source import CachedSource
from mtkd_dist.train.consumption import ConsumptionLog, Header, log_path
from mtkd_dist.train.source import LocalSource, Share, Source, slots_of_rank
from mtkd_dist.verify_run import main
from tests.nets import make_plan, make_store

CPU = torch.device("cpu")
STEPS, SLOT, RANKS = 3, 2, 2
SOURCES: dict[str, Callable[[Share], Source]] = {
    "cut by the rank": lambda share: LocalSource(share, CPU),
    "cached": lambda share: CachedSource(share, Supervised(), RenderedTeachers((), None), CPU),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ImageStore:
    return make_store(tmp_path_factory.mktemp("photos"))


def consume(store: ImageStore, run: Path, source_of: Callable[[Share], Source]) -> Path:
    """Three slots a step: rank 0 takes two of them, rank 1 one. Returns the folder of the checkpoints."""
    plan = make_plan(store, batch_size=3 * SLOT)
    folder = run / "distil" / "checkpoints-abc"
    for rank in range(RANKS):
        source = source_of(Share(store.folder, plan, SLOT, slots_of_rank(3, rank, RANKS)))
        header = Header(
            attempt=1,
            rank=rank,
            world_size=RANKS,
            start=0,
            steps=STEPS,
            slot_size=SLOT,
            batch_size=plan.batch_size,
            patch=plan.patch,
            seed=plan.seed,
            dataset=plan.dataset_digest,
            plan=plan.digest,
            images=str(store.folder),
        )
        log = ConsumptionLog(folder, header)
        for step in range(STEPS):
            log.append(step, source.fetch(step).checks)
        log.close()
    return folder


def change(path: Path, step: int, **values: object) -> None:
    header, *lines = map(json.loads, path.read_text().splitlines())
    lines[step] |= values
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *lines)))


def checks(path: Path, step: int) -> list[int]:
    found: list[int] = json.loads(path.read_text().splitlines()[1 + step])["checks"]
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_the_pixels_that_two_ranks_of_uneven_shares_took_are_those_of_the_plan(
    store: ImageStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    consume(store, tmp_path, SOURCES[source])
    assert main([str(tmp_path)]) == EXIT_OK
    told = "distil: 3 steps, 18 samples, 1 attempt: 0 lost, 0 repeated, 0 wrong (0 recomputed, 0 skipped)\n"
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_sample_that_is_missing_from_a_line_is_lost_and_ends_with_status_1(
    store: ImageStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], rank: int
) -> None:
    path = log_path(consume(store, tmp_path, SOURCES["cached"]), 1, rank)
    change(path, 1, checks=checks(path, 1)[1:])
    assert main([str(tmp_path)]) == EXIT_FAILED
    assert "1 lost, 0 repeated, 0 wrong (0 recomputed, 0 skipped)" in capsys.readouterr().out


def test_a_slot_that_the_log_names_as_left_out_is_skipped_and_fine(
    store: ImageStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log_path(consume(store, tmp_path, SOURCES["cached"]), 1, 0)
    change(path, 1, checks=checks(path, 1)[SLOT:], skipped=[0])
    assert main([str(tmp_path)]) == EXIT_OK
    assert "0 lost, 0 repeated, 0 wrong (0 recomputed, 2 skipped)" in capsys.readouterr().out
