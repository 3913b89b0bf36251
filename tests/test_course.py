"""What becomes of the numbers of a training on their way to screen, MLflow and manifest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.placement import Layout, PoolSize
from mtkd_dist.pools.split import Devices, Split
from mtkd_dist.report.history import History, Past, read_history
from mtkd_dist.report.progress import Progress
from mtkd_dist.stages.course import Course
from mtkd_dist.train.news import StudentShares, Update
from tests.nets import make_job, make_store

RANK_0, RANK_1 = PoolShares(0.8, 0.2, 0.0), PoolShares(0.5, 0.5, 0.0)
TEACHERS = PoolShares(0.9, 0.1, 0.0)
LAST = {"loss": 1.0, "images_per_second": 4.0, "students": RANK_0, "so_far": {"seconds": 20.0, "images": 80}}
"""The end of a record after which figures are posted."""
VALIDATION = {"step": 10, "photos": 2, "validation_psnr_y": 30.5, "best_step": 10, "best_psnr_y": 30.5}


class Tracked:
    """A run of MLflow that only remembers."""

    def __init__(self) -> None:
        self.values: dict[str, list[tuple[int | None, float]]] = {}

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        for name, value in values.items():
            self.values.setdefault(name, []).append((step, value))


class Followed:
    """Two students and three teachers, the first posting of whose training has arrived."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = io.StringIO()
        self.tracked = Tracked()
        layout = Layout(PoolSize(2, 1, 1), PoolSize(3, 1, 1))
        job = make_job(make_store(folder), batch_size=8)
        self.history = History(folder / "course.jsonl", 100, pytest.fail)
        with Progress(Console(file=self.out), "distil", 100) as progress, self.history:
            tracked = cast(Any, self.tracked)
            self.course = Course("distil", layout, job, LinkConfig(), progress, tracked, self.history, lambda _: None)
            step: dict[str, Any] = {"learning_rate": 0.1, "loss": 1.0}
            records = [step | {"step": 8, "wait_seconds": 0.5}, step | {"step": 9, "wait_seconds": 0.25} | LAST]
            link = {"shares": TEACHERS, "ready": 3, "bytes_in_flight": 12_000_000, "bytes_spilled": 0, "hedged": 1}
            self.course.update(Update(records, TEACHERS, link, [], [], RANK_1))
            self.course.update(Update([], None, {}, [VALIDATION], []))

    def past(self) -> Past:
        return read_history(self.folder / "course.jsonl")


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_every_step_has_its_wait_and_the_stage_their_sum(followed: Followed) -> None:
    assert followed.tracked.values["wait_seconds"] == [(8, 0.5), (9, 0.25)]
    assert followed.tracked.values["waited_seconds"] == [(9, 10.0)]
    assert followed.course.summary()["waited_seconds"] == 10.0


def test_the_students_are_as_starved_as_the_rank_that_waits_longest(followed: Followed) -> None:
    assert followed.tracked.values["students_starved"] == [(9, 0.5)]
    assert followed.course.summary()["pools"]["students"]["starved"] == 0.5


def test_all_numbers_of_the_link_are_tracked_and_kept(followed: Followed) -> None:
    kept = {"ready": 3, "bytes_in_flight": 12_000_000, "bytes_spilled": 0, "hedged": 1}
    assert followed.course.summary()["link"] == kept
    for name, value in kept.items():
        assert followed.tracked.values[f"link_{name}"] == [(9, value)]


def test_losses_shares_and_scores_are_written_down(followed: Followed) -> None:
    past = followed.past()
    assert past.curve("loss") == [(9, 1.0), (10, 1.0)]
    assert past.steps[-1].pools == {"students": RANK_1, "teachers": TEACHERS}
    assert past.validations == (VALIDATION,)


def test_the_screen_shows_what_is_on_its_way(followed: Followed) -> None:
    # A window of 4 steps of 4 slots.
    assert "link: 3 of 16 slots ready, 12.0 MB in flight" in followed.out.getvalue()


def test_what_is_judged_is_the_whole_stage(followed: Followed) -> None:
    ran = followed.course.ran(Devices(8, "GPU"))
    assert ran is not None
    assert (ran.split, ran.images_per_second, ran.waited_seconds) == (Split(3, 2), 4.0, 10.0)
    assert (ran.teachers, ran.students) == (TEACHERS, RANK_1)


def test_teachers_count_that_were_really_there(followed: Followed) -> None:
    link = {"shares": TEACHERS, "ready": 3, "bytes_in_flight": 0, "workers": 2}
    followed.course.update(Update([{"step": 10, **LAST}], TEACHERS, link, [], [], RANK_1))
    ran = followed.course.ran(Devices(8, "GPU"))
    assert ran is not None
    assert ran.split == Split(2, 2)


def test_students_without_a_teacher_pool_are_judged_by_themselves(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path))
    layout = Layout(PoolSize(2, 1, 1), None)
    history = History(tmp_path / "course.jsonl", 1, pytest.fail)
    with Progress(Console(file=io.StringIO()), "teachers/a", 1) as progress, history:
        tracked = cast(Any, Tracked())
        course = Course("teachers/a", layout, job, LinkConfig(), progress, tracked, history, lambda _: None)
        assert course.ran(Devices(2, "GPU")) is None
        course.update(Update([{"step": 9, **LAST}], None, {}, [], [], RANK_1))
    ran = course.ran(Devices(2, "GPU"))
    assert ran is not None
    assert (ran.split, ran.students, ran.images_per_second) == (Split(0, 2), RANK_1, 4.0)
    assert (ran.teachers.working, ran.waited_seconds) == (0.0, 10.0)


def test_a_validation_that_arrives_with_the_first_steps_is_kept(tmp_path: Path) -> None:
    job = make_job(make_store(tmp_path))
    history = History(tmp_path / "course.jsonl", 10, pytest.fail)
    with Progress(Console(file=io.StringIO()), "teachers/a", 10) as progress, history:
        layout, tracked = Layout(PoolSize(2, 1, 1), None), cast(Any, Tracked())
        course = Course("teachers/a", layout, job, LinkConfig(), progress, tracked, history, lambda _: None)
        course.update(Update([{"step": 9, **LAST}], None, {}, [VALIDATION], [], RANK_1))
    assert read_history(tmp_path / "course.jsonl").validations == (VALIDATION,)


def test_ranks_that_are_gone_have_no_say() -> None:
    shares = StudentShares()
    assert shares.longest_wait() is None
    shares.add([{"students": RANK_0, "loss": 1.0}, {"rank": 3, "of": 4, "students": RANK_1}, {"note": "x"}])
    assert shares.longest_wait() == RANK_1
    shares.add([{"rank": 1, "of": 2, "students": TEACHERS}])
    assert shares.longest_wait() == RANK_0
