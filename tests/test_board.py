from __future__ import annotations

from mtkd_dist.pools.board import Board


def test_records_are_read_once_in_order() -> None:
    board = Board()
    board.post([{"step": 0}, {"step": 1}])
    assert board.read(0) == [{"step": 0}, {"step": 1}]
    board.post([{"step": 2}])
    assert board.read(2) == [{"step": 2}]
    assert board.read(3) == []


def test_a_reader_whose_answer_was_lost_asks_again_and_misses_nothing() -> None:
    board = Board()
    board.post([{"step": 0}])
    board.read(0)
    board.post([{"step": 1}])
    assert board.read(0) == [{"step": 0}, {"step": 1}]
