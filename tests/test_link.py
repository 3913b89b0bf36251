"""The link's shell with teachers that are plain objects: what it does when they fail, hang or are strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from mtkd_dist.config.tree import LinkConfig
from mtkd_dist.pools.lease import Lease
from mtkd_dist.pools.link import Link, LinkError
from mtkd_dist.pools.link_state import LinkState
from mtkd_dist.pools.patience import Patience
from mtkd_dist.pools.teacher_handle import UnknownLink

PLAN = "the digest of the plan"
Teach = Callable[[int, int], dict[str, Any]]


class Teacher:
    """Stands for the handle of a worker; `teach` gives its record or raises."""

    def __init__(
        self, teach: Teach, plan: str = PLAN, ping_seconds: float = 0.0, error: Exception | None = None
    ) -> None:
        self.teach = teach
        self.plan = plan
        self.ping_seconds = ping_seconds
        self.error = error
        self.kills = 0

    async def ping(self) -> str:
        await asyncio.sleep(self.ping_seconds)
        if self.error is not None:
            raise self.error
        return self.plan

    def answer(self, lease: Lease) -> tuple[Any, str]:
        return self.meta(*lease.key), "answer {} {}".format(*lease.key)

    async def meta(self, step: int, slot: int) -> dict[str, Any]:
        return self.teach(step, slot)

    def kill(self) -> None:
        self.kills += 1

    def doubt(self) -> bool:
        self.kill()
        return True


def good(step: int, slot: int) -> dict[str, Any]:
    return {"bytes": 100, "busy_seconds": 0.0}


def start_link(
    teachers: dict[str, Teacher], said: list[str] | None = None, max_bytes: int = 1000, **config: Any
) -> tuple[Link, asyncio.Task[None]]:
    settings = LinkConfig(**config)
    link = Link(
        LinkState(
            plan=PLAN,
            steps=4,
            slots=range(2),
            window_steps=2,
            max_bytes=max_bytes,
            patience=Patience(settings.hang_seconds),
        ),
        dict(teachers),  # type: ignore[arg-type]
        settings,
        lambda step, slot: f"photo {step}.{slot}",
        (said if said is not None else []).append,
    )
    return link, asyncio.create_task(link.run())


def run(
    teachers: dict[str, Teacher], step: int = 0, said: list[str] | None = None, **config: Any
) -> tuple[list[Any], dict[str, Any]]:
    """What a student that takes one step after the other gets for both slots of `step`, and the link's numbers then."""

    async def student() -> tuple[list[Any], dict[str, Any]]:
        link, running = start_link(teachers, said, **config)
        await link.attach(1, 0, 1, 0, PLAN)
        try:
            answers = [await link.take(1, 0, one, [0, 1]) for one in range(step + 1)]
            return answers[-1], await link.stats()
        finally:
            running.cancel()

    return asyncio.run(student())


def failing(times: int, error: Callable[[], Exception], at: tuple[int, int] = (0, 1)) -> Teach:
    left = [times]

    def teach(step: int, slot: int) -> dict[str, Any]:
        if (step, slot) == at and left[0]:
            left[0] -= 1
            raise error()
        return good(step, slot)

    return teach


def died() -> Exception:
    return ActorUnavailableError("gone", None)


def test_a_failure_is_answered_again() -> None:
    answers, _ = run({"a": Teacher(failing(2, lambda: ValueError("nan")))})
    assert answers == ["answer 0 0", "answer 0 1"]


def test_a_failure_that_repeats_ends_the_run_with_the_teachers_words() -> None:
    with pytest.raises(LinkError, match=r"worker a failed at step 0, slot 1: the lamp is out \(tried 3 times\)"):
        run({"a": Teacher(failing(3, lambda: ValueError("the lamp is out")))})


def test_a_slot_that_kills_three_workers_is_named_with_its_photographs() -> None:
    with pytest.raises(LinkError, match=r"3 teacher workers died at step 0, slot 1 \(photo 0\.1\).*link\.on_deadly"):
        run({"a": Teacher(failing(3, died))})


def test_a_skipped_slot_is_handed_out_as_none_told_and_counted() -> None:
    said: list[str] = []
    answers, stats = run({"a": Teacher(failing(9, died))}, said=said, on_deadly="skip")
    assert answers == ["answer 0 0", None]
    assert stats["quarantined"] == 1
    assert stats["lost_workers"] == 3
    assert len(said) == 1
    assert said[0].startswith("skipped step 0, slot 1: photo 0.1, because 3 teacher workers died")


def test_a_worker_that_fails_at_everything_is_started_again_and_the_others_do_its_work() -> None:
    def broken(step: int, slot: int) -> dict[str, Any]:
        raise RuntimeError("the GPU has fallen off the bus")

    bad = Teacher(broken)
    answers, stats = run({"bad": bad, "good": Teacher(good)}, step=3)
    assert answers == ["answer 3 0", "answer 3 1"]
    assert bad.kills == stats["lost_workers"] > 0


def test_a_worker_of_another_plan_is_refused() -> None:
    with pytest.raises(LinkError, match=r"teacher worker a works by the plan another"):
        run({"a": Teacher(good, plan="another")})


class Silent(Teacher):
    """Never answers from `step` on."""

    def __init__(self, step: int, seconds: float = 0.0) -> None:
        super().__init__(good)
        self.step = step
        self.seconds = seconds

    async def meta(self, step: int, slot: int) -> dict[str, Any]:
        await asyncio.sleep(self.seconds if step < self.step else 1000)
        return good(step, slot)


def test_a_student_that_starves_is_told_what_was_going_on() -> None:
    match = r"no answer for step 1, nor any other, within 0\.2 s: of 1 teacher workers 1 are alive.*2 leases are out"
    with pytest.raises(LinkError, match=match):
        run({"a": Silent(step=1)}, step=1, starved_seconds=0.2)


def test_a_slot_over_which_three_workers_hang_is_told_with_the_setting_that_calls_it_so() -> None:
    silent = Silent(step=0)
    match = r"3 teacher workers died at step 0.*3 of them were killed because .* link\.hang_seconds \(0\.02;"
    with pytest.raises(LinkError, match=match):
        run({"a": silent}, hang_seconds=0.02)
    assert silent.kills == 3


def test_without_any_worker_a_student_starves() -> None:
    with pytest.raises(LinkError, match=r"of 1 teacher workers 0 are alive"):
        run({"a": Teacher(good, ping_seconds=1000)}, starved_seconds=0.2)


def test_answers_that_keep_arriving_are_no_starvation_however_long_they_take_together() -> None:
    answers, _ = run({"a": Silent(step=9, seconds=0.4)}, step=1, starved_seconds=0.7)
    assert answers == ["answer 1 0", "answer 1 1"]


@pytest.mark.parametrize(("asked", "max_bytes"), [(2, 1000), (1, 100)], ids=["window", "credits"])
def test_students_that_hold_themselves_back_do_not_starve(asked: int, max_bytes: int) -> None:
    """A rank writes a checkpoint, or validates, while the others ask for more."""

    async def students() -> list[Any]:
        link, running = start_link({"a": Teacher(good)}, max_bytes=max_bytes, starved_seconds=0.1)
        for rank in (0, 1):
            await link.attach(1, rank, 2, 0, PLAN)
        taking = asyncio.create_task(link.take(1, 0, asked, [0]))
        await asyncio.sleep(0.5)
        assert not taking.done()
        later = asyncio.create_task(link.take(1, 1, asked, [1]))
        try:
            return await taking + await later
        finally:
            running.cancel()

    assert asyncio.run(students()) == [f"answer {asked} 0", f"answer {asked} 1"]


def test_who_asks_for_a_step_has_read_all_before_it_and_their_answers_are_let_go() -> None:
    async def student() -> list[set[int]]:
        link, running = start_link({"a": Teacher(good)})
        await link.attach(1, 0, 1, 0, PLAN)
        kept = []
        for step in (0, 1, 2):
            await link.take(1, 0, step, [0, 1])
            kept.append({step for step, _ in link._answers})
        running.cancel()
        return kept

    for step, kept in enumerate(asyncio.run(student())):
        assert min(kept) == step


def test_a_worker_that_ray_gives_up_is_told_of() -> None:
    said: list[str] = []

    answers, _ = run({"a": Teacher(good), "b": Teacher(good, error=ActorDiedError())}, said=said)
    assert answers == ["answer 0 0", "answer 0 1"]
    (note,) = said
    assert note.startswith("teacher worker b could not be restarted, 1 are left: ")


def test_a_shared_teacher_that_has_forgotten_the_link_is_greeted_again() -> None:
    answers, stats = run({"a": Teacher(failing(1, lambda: UnknownLink("me")))})
    assert answers == ["answer 0 0", "answer 0 1"]
    assert stats["lost_workers"] == 1
    assert stats["quarantined"] == 0


def test_a_shared_teacher_that_cannot_take_the_job_says_why() -> None:
    refusal = RayTaskError("greet", "ValueError: other images than this run began with", ValueError())
    with pytest.raises(LinkError, match=r"worker a cannot work for this training: ValueError: other images"):
        run({"a": Teacher(good, error=refusal)})
