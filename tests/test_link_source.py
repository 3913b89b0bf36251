"""A student's side of the link, with links that are plain objects."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, ObjectLostError

from mtkd_dist.pools.link import LinkError
from mtkd_dist.train import link_source as source_module
from mtkd_dist.train.link_source import LinkSource


class Call:
    """`handle.method.remote(...)`; what it returns is for `get` below."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = lambda *args: lambda: call(*args)


def get(calls: Any, timeout: float | None = None) -> Any:
    return [call() for call in calls]


def make_source(monkeypatch: pytest.MonkeyPatch, **methods: Callable[..., Any]) -> LinkSource:
    monkeypatch.setattr(source_module.ray, "get", get)
    link = SimpleNamespace(**{name: Call(method) for name, method in methods.items()})
    share = SimpleNamespace(plan=SimpleNamespace(digest="plan"), slots=[0], slots_per_step=1, skipped={})
    return LinkSource(lambda: [link], 1, 0, 1, share, None)  # type: ignore[arg-type]


def late(*args: object) -> Any:
    raise GetTimeoutError("late")


def test_a_link_that_does_not_speak_at_all_is_given_up_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(monkeypatch, attach=late, stats=late)
    with pytest.raises(LinkError, match=r"the link lives and has not answered for 60 s"):
        source.fetch(0)


def test_a_batch_that_is_long_in_coming_is_waited_for_while_the_link_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def take(attempt: int, rank: int, step: int, slots: list[int]) -> list[Any]:
        asked.append(step)
        return late() if len(asked) < 4 else [lambda: "answer"]

    source = make_source(monkeypatch, attach=lambda *args: None, stats=dict, take=take)
    assert source._take(3) == ["answer"]
    assert asked == [3] * 4


class Story:
    """A link whose calls are told in the order in which they are made; `answers` says what a student reads."""

    def __init__(self, answers: Callable[[int], Any], take: Callable[[int], Any] = lambda step: None) -> None:
        self.told: list[str] = []
        self._answers = answers
        self._take = take

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any) -> Callable[[], Any]:
            step = args[{"attach": 3, "take": 2, "lost": 1}[name]]
            self.told.append(f"{name} {step}")
            return lambda: self._taken(step) if name == "take" else None

        return SimpleNamespace(remote=remote)

    def _taken(self, step: int) -> list[Any]:
        self._take(step)
        return [lambda: self._read(step)]

    def _read(self, step: int) -> Any:
        self.told.append(f"read {step}")
        return self._answers(step)


def tell(monkeypatch: pytest.MonkeyPatch, *links: Story) -> LinkSource:
    """A source that finds `links` one after the other."""
    source = make_source(monkeypatch)
    found = iter(links)
    source._find_links = lambda: [next(found)]
    monkeypatch.setattr(source_module, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(source_module, "batch_of", lambda answers, device, channels_last: answers)
    monkeypatch.setattr(source_module, "_is_readable", lambda ref: False)
    return source


def fails(*errors: Exception | None) -> Callable[[int], Any]:
    """Raises these one after the other, then none."""
    left = list(errors)

    def answer(step: int) -> str:
        if left and (error := left.pop(0)) is not None:
            raise error
        return f"answer {step}"

    return answer


def test_the_next_step_is_asked_for_as_soon_as_this_one_is_read_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Story(fails())
    source = tell(monkeypatch, link)
    assert [source.fetch(step) for step in (0, 1)] == [["answer 0"], ["answer 1"]]
    assert link.told == ["attach 0", "take 0", "read 0", "take 1", "read 1", "take 2"]


def test_answers_that_cannot_be_read_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Story(fails(ObjectLostError("", None, "")))
    source = tell(monkeypatch, link)
    assert source.fetch(0) == ["answer 0"]
    assert link.told == ["attach 0", "take 0", "read 0", "lost 0", "take 0", "read 0", "take 1"]


def test_answers_that_come_just_after_the_patience_is_over_are_read_and_not_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Story(fails(GetTimeoutError("late")))
    source = tell(monkeypatch, link)
    monkeypatch.setattr(source_module, "_is_readable", lambda ref: True)
    assert source.fetch(0) == ["answer 0"]
    assert "lost 0" not in link.told


def test_answers_that_can_never_be_read_end_the_run_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(step: int) -> str:
        raise GetTimeoutError("late")

    link = Story(never)
    with pytest.raises(LinkError, match=r"step 0, slots \[0\], could not be read 6 times in a row.*object store"):
        tell(monkeypatch, link).fetch(0)
    assert link.told.count("lost 0") == 5


def test_what_a_dead_link_was_asked_ahead_is_asked_of_its_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Story(fails(), take=fails(None, ActorDiedError())), Story(fails())
    source = tell(monkeypatch, first, second)
    assert [source.fetch(step) for step in (0, 1)] == [["answer 0"], ["answer 1"]]
    assert second.told == ["attach 1", "take 1", "read 1", "take 2"]


def test_an_error_of_a_step_that_was_asked_ahead_is_raised_for_that_step(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tell(monkeypatch, Story(fails(), take=fails(None, LinkError("of step 1"))))
    assert source.fetch(0) == ["answer 0"]
    with pytest.raises(LinkError, match="of step 1"):
        source.fetch(1)
