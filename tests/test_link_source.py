"""A student's side of the link, with links that are plain objects."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from mtkd_dist.pools.link import LinkError
from mtkd_dist.train import source as source_module
from mtkd_dist.train.source import LinkSource


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

    def take(attempt: int, step: int, slots: list[int]) -> list[Any]:
        asked.append(step)
        return late() if len(asked) < 4 else [lambda: "answer"]

    source = make_source(monkeypatch, attach=lambda *args: None, stats=dict, take=take)
    assert source._take(3) == ["answer"]
    assert asked == [3] * 4
