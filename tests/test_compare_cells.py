"""Cells of a comparison, in this process and without Ray."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mtkd_dist.compare.cell import LOG, do_work, score_references, train_aggregator
from mtkd_dist.compare.shared import Shared, share
from mtkd_dist.compare.work import Work
from mtkd_dist.config.presets import PRESETS
from mtkd_dist.config.tree import LinkConfig, MethodName, TrainingConfig
from mtkd_dist.models import digest_file
from mtkd_dist.pools.placement import PoolSize, Resources
from mtkd_dist.pools.teacher_worker import digests_of
from mtkd_dist.stages import manifest
from mtkd_dist.stages.run import Run
from mtkd_dist.stages.run_report import FILE as REPORT
from mtkd_dist.stages.run_report import gather, write_report
from mtkd_dist.stages.teachers import ReadyTeachers
from mtkd_dist.tracking.tracker import Untracked
from mtkd_dist.train import stopping
from mtkd_dist.train.stopping import Saved
from tests.nets import TINY, TINY_AGGREGATOR, make_store, make_teacher

OTHER = "edsr-baseline:width=8,blocks=2"
SMALL = TrainingConfig(steps=3, batch_size=4, patch=8, ema=0.9, checkpoint_every=2, validate_every=0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What a driver would have prepared."""
    folder = tmp_path_factory.mktemp("compare")
    photos, scored = make_store(folder), make_store(folder / "scored", 2, side=48)
    teachers = [make_teacher(folder, "a"), make_teacher(folder, "b", seed=1)]
    files = tuple(dataclasses.replace(teacher, digest=digest_file(teacher.path)) for teacher in teachers)
    config = dataclasses.replace(
        PRESETS["demo"](),
        teachers=[str(teacher.path) for teacher in teachers],
        aggregator=TINY_AGGREGATOR,
        teacher_outputs="cached",
        link=LinkConfig(slot_size=2),
        aggregate=SMALL,
        distil=SMALL,
        at=dataclasses.replace(PRESETS["demo"]().at, taps=["body.0"]),
        fakd=dataclasses.replace(PRESETS["demo"]().fakd, taps=["body.0"]),
        crosskd=dataclasses.replace(PRESETS["demo"]().crosskd, tap="body.0"),
    )
    console = Console(file=io.StringIO())
    run = Run(config, folder / "output", console, Untracked(), Resources(2, 0), photos, None, {"held": scored})
    return share(run, ReadyTeachers(files, digests_of(files), {}), PoolSize(1, 1, 0))


def student_of(shared: Shared, work: Work) -> Path:
    return shared.output / work.folder / "student.safetensors"


def made(shared: Shared, method: MethodName, seed: int = 0, **changes: Any) -> tuple[Any, Path]:
    """The only cell of a work and its student's file."""
    work = Work(method, (TINY,), seed)
    aggregator = train_aggregator(shared, seed) if method == "mtkd" else None
    (cell,) = do_work(dataclasses.replace(shared, **changes), work, aggregator)
    return cell, student_of(shared, work)


@pytest.mark.parametrize("method", ["mtkd", "mean", "kd", "at", "fakd", "dukd", "crosskd", "scratch"])
def test_a_cell_of_every_method_is_trained_and_scored(shared: Shared, method: MethodName) -> None:
    cell, file = made(shared, method)
    assert (cell.method, cell.student, cell.seed, cell.steps) == (method, TINY, 0, 3)
    assert {name: len(photos) for name, photos in cell.scores.items()} == {"held": 2}
    assert file.exists()


def test_what_is_done_is_not_done_again(shared: Shared) -> None:
    cell, file = made(shared, "kd")
    written = {path: path.stat().st_mtime_ns for path in file.parent.rglob("*") if path.name != LOG}
    again, _ = made(shared, "kd")
    assert again == cell
    assert {path: path.stat().st_mtime_ns for path in file.parent.rglob("*") if path.name != LOG} == written


def test_a_cell_can_be_looked_at_like_a_run(shared: Shared) -> None:
    _, file = made(shared, "scratch")
    (distil,) = gather(file.parent).stages
    assert (distil.name, distil.finished, distil.past.done) == ("distil", True, 3)
    write_report(file.parent, file.parent / REPORT)


def test_students_of_a_stream_end_as_each_would_alone(shared: Shared) -> None:
    both = do_work(shared, Work("dukd", (TINY, OTHER), 0), None)
    alone = [do_work(shared, Work("dukd", (student,), 0), None)[0] for student in (TINY, OTHER)]
    assert [cell.student for cell in both] == [TINY, OTHER]
    assert [cell.scores for cell in both] == [cell.scores for cell in alone]


def test_methods_begin_with_the_same_weights_and_see_the_same_samples(shared: Shared) -> None:
    """With the teachers' part of its loss switched off, kd is scratch."""
    kd = dataclasses.replace(shared.config.kd, teacher_weight=0.0)
    other = dataclasses.replace(shared, config=dataclasses.replace(shared.config, kd=kd))
    cell, _ = made(other, "kd", seed=7)
    assert cell.scores == made(shared, "scratch", seed=7)[0].scores
    assert cell.scores != made(shared, "scratch", seed=8)[0].scores


def test_a_cell_that_is_asked_to_stop_saves_and_goes_on_to_the_same_scores(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "EXCHANGE_SECONDS", 0)  # it looks after every step
    whole, _ = made(shared, "kd", seed=11)
    student_of(shared, Work("kd", (TINY,), 11)).parent.rename(shared.output / "whole")
    asked = iter([False, False, True])  # before it begins, after the first step, after the second
    with pytest.raises(Saved, match="saved after step 2 of 3"):
        made(shared, "kd", seed=11, asked_to_stop=lambda: next(asked))
    log = (shared.output / Work("kd", (TINY,), 11).folder / LOG).read_text()
    assert "saved after step 2 of 3" in log
    assert "Traceback" not in log
    again, _ = made(shared, "kd", seed=11)
    assert again.scores == whole.scores


def test_a_cell_that_has_not_begun_when_it_is_asked_to_stop_begins_nothing(shared: Shared) -> None:
    with pytest.raises(Saved):
        made(shared, "kd", seed=12, asked_to_stop=lambda: True)
    assert not (shared.output / Work("kd", (TINY,), 12).folder).exists()


def test_students_learn_from_the_aggregator_of_their_seed(shared: Shared) -> None:
    digests = []
    for seed in (0, 1):
        _, file = made(shared, "mtkd", seed)
        found = manifest.read(file.parent / "distil")
        assert found is not None
        digests.append(found.inputs["aggregator"])
        assert digests[-1] == digest_file(train_aggregator(shared, seed))
    assert digests[0] != digests[1]


def test_live_teachers_answer_every_method_where_they_are_asked_for(shared: Shared) -> None:
    live = dataclasses.replace(shared, config=dataclasses.replace(shared.config, teacher_outputs="live"))
    aggregator = train_aggregator(live, 3)
    for method in ("mtkd", "kd"):
        work = Work(method, (OTHER, TINY), 3)
        cells = do_work(live, work, aggregator if method == "mtkd" else None)
        assert [cell.student for cell in cells] == [OTHER, TINY]
        found = manifest.read(shared.output / work.folder / "distil")
        assert found is not None
        assert "slot_size" in found.inputs  # what only live answers depend on


def test_bytes_are_those_of_a_sample_as_it_is_read(shared: Shared) -> None:
    images = 3 * 8**2 + 3 * 16**2
    one = 2 * 3 * 16**2
    found = {method: made(shared, method)[0].bytes_per_sample for method in ("scratch", "mtkd", "mean", "kd", "at")}
    assert {method: read - images for method, read in found.items()} == {
        "scratch": 0,
        "mtkd": one,
        "mean": 2 * one,  # both are stored; with live teachers it would be their average
        "kd": 2 * one,
        "at": 2 * (one + 2 * 8**2),
    }


def test_references_are_bicubic_teachers_their_mean_and_aggregates(shared: Shared) -> None:
    scores = score_references(shared, {0: train_aggregator(shared, 0)})
    assert list(scores) == ["bicubic", "a", "b", "mean of teachers", "aggregate (seed 0)"]
    written = (shared.output / "references/scores/manifest.json").stat().st_mtime_ns
    assert score_references(shared, {0: train_aggregator(shared, 0)}) == scores
    assert (shared.output / "references/scores/manifest.json").stat().st_mtime_ns == written


def test_what_goes_wrong_in_a_cell_is_in_its_log(shared: Shared) -> None:
    lost = dataclasses.replace(shared, images=shared.images / "lost")
    work = Work("scratch", (TINY,), 5)
    with pytest.raises((ValueError, OSError)):
        do_work(lost, work, None)
    assert "Traceback" in (shared.output / work.folder / LOG).read_text()


def test_the_time_of_a_stream_is_shared_by_its_students(shared: Shared) -> None:
    work = Work("at", (TINY, OTHER), 1)
    cells = do_work(shared, work, None)
    found = manifest.read(shared.output / work.folder / "distil")
    assert found is not None
    seconds = SMALL.steps * SMALL.batch_size / found.summary["images_per_second"]
    assert [cell.seconds for cell in cells] == [seconds / 2] * 2
