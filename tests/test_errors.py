from __future__ import annotations

import pytest

from mtkd_dist.pools.errors import root_cause


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Traceback\n  File x\nRuntimeError: the lamp is out\n", "RuntimeError: the lamp is out"),
        ("mtkd_dist.pools.link.LinkError: no answer within 0.5 s", "LinkError: no answer within 0.5 s"),
        ("a plain sentence", "a plain sentence"),
        (
            "Traceback\n  File x\nRuntimeError: CUDA error\nCompile with DSA",
            "RuntimeError: CUDA error\nCompile with DSA",
        ),
    ],
)
def test_the_innermost_error_is_told_without_tracebacks(text: str, line: str) -> None:
    assert root_cause(RuntimeError(text)) == line


def test_an_error_without_words_is_told_by_its_type() -> None:
    assert root_cause(KeyError()) == "KeyError()"
