"""The guides of `docs/guides`, walked through word by word: every command, in an empty folder, in the page's order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mtkd_dist import cli

GUIDES = sorted((Path(__file__).resolve().parents[1] / "docs" / "guides").glob("*.md"))
_BLOCK = re.compile(r'^```(sh|python)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks_of(guide: Path) -> list[tuple[str, str, str]]:
    """(language, title or nothing, text) of each block of code that a reader would run or save."""
    return [(found[1], found[2] or "", found[3]) for found in _BLOCK.finditer(guide.read_text())]


def commands_of(guide: Path) -> list[list[str]]:
    texts = [text.replace("\\\n", " ") for kind, _, text in blocks_of(guide) if kind == "sh"]
    return [shlex.split(line) for text in texts for line in text.splitlines() if line.startswith("mtkd ")]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_names_commands_that_there_are(guide: Path) -> None:
    commands = {words[1] for words in commands_of(guide)}
    assert commands
    assert commands <= set(cli.COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_a_guide_can_be_followed_in_an_empty_folder(guide: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for kind, title, text in blocks_of(guide):
        if title:
            (tmp_path / title).write_text(text)
            continue
        words = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
