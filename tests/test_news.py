"""What the driver passes on, with a board and links that are plain objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.pools import board as board_module
from mtkd_dist.pools.errors import TrainingFailed
from mtkd_dist.train import news as news_module
from mtkd_dist.train.news import Update


class Call:
    """`handle.method.remote(...)`; `get` takes what it returns for a reference."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = lambda *args: lambda: call(*args)


class BoardHandle:
    def __init__(self, read: Callable[[int], Any]) -> None:
        self.read = Call(read)


class Pool:
    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self._answers = list(answers)

    def stats(self, timeout: float) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def news_of(monkeypatch: pytest.MonkeyPatch, read: Callable[[int], Any], pool: Pool | None) -> Any:
    monkeypatch.setattr(board_module.ray, "get", lambda call, timeout: call())
    monkeypatch.setattr(news_module, "spilled_bytes", lambda: 0)
    return news_module.News(BoardHandle(read), pool, ranks=1)  # type: ignore[arg-type]


def test_a_link_that_does_not_answer_hides_no_news_and_its_last_numbers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = PoolShares(1.0, 0.0, 0.0)
    pool = Pool(GetTimeoutError("late"), {"shares": shares, "ready": 3}, GetTimeoutError("late"))
    updates: list[Update] = []
    news = news_of(monkeypatch, lambda first: [{"step": first, "loss": 1.0}], pool)
    for _ in range(3):
        news.pass_on(updates.append)
    assert [update.records[0]["step"] for update in updates] == [0, 1, 2]
    assert [update.link.get("ready") for update in updates] == [None, 3, 3]
    assert [update.teachers for update in updates] == [None, shares, shares]


def test_a_dead_board_ends_the_run_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(first: int) -> Any:
        raise ActorDiedError

    with pytest.raises(TrainingFailed, match=r"leave their news .* died; the same command goes on"):
        news_of(monkeypatch, read, None).pass_on(lambda update: None)


def test_a_board_that_is_late_is_read_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [GetTimeoutError("late"), [{"note": "here"}]]

    def read(first: int) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    updates: list[Update] = []
    news = news_of(monkeypatch, read, None)
    news.pass_on(updates.append)
    news.pass_on(updates.append)
    assert [update.notes for update in updates] == [["here"]]
