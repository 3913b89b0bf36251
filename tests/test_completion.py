"""What shells complete: the printed script in a real bash, as if a word were typed and the tab key pressed."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mtkd_dist.cli import COMMANDS
from mtkd_dist.completion import main, script_of

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "mtkd"
    path.write_text(script_of("bash"))
    return path


def completed(script: Path, line: str, folder: Path) -> set[str]:
    """What bash offers at the end of `line`, where no file would match better."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    lines = [
        f"source {shlex.quote(str(script))}",
        f"COMP_WORDS=({shlex.join(words)})",
        f"COMP_CWORD={len(words) - 1}",
        "_shtab_mtkd",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)], cwd=folder, capture_output=True, text=True, check=True
    )
    return {word for word in done.stdout.splitlines() if word}


@needs_bash
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mtkd ", {*COMMANDS}),
        ("mtkd com", {"compare", "completion"}),
        ("mtkd launch --distil.st", {"--distil.steps"}),
        ("mtkd launch --method c", {"crosskd"}),
        ("mtkd launch --link.wire float", {"float16", "float32"}),
        ("mtkd launch --scale ", {"2", "3", "4"}),
        ("mtkd launch --preset paper-", {"paper-x2", "paper-x3", "paper-x4"}),
        ("mtkd launch --data photos more --sc", {"--scale"}),
        ("mtkd launch --plan-only --sc", {"--scale"}),
        ("mtkd compare --methods mtkd k", {"kd"}),
        ("mtkd compare --launch.link.wire u", {"uint8"}),
        ("mtkd tune --scheduler p", {"pbt"}),
        ("mtkd evaluate a.pth --self", {"--self-ensemble"}),
        ("mtkd completion ", {"bash", "fish", "zsh"}),
    ],
)
def test_bash_completes_commands_flags_and_choices(script: Path, line: str, offered: set[str], tmp_path: Path) -> None:
    assert completed(script, line, tmp_path) == offered


@needs_bash
@pytest.mark.parametrize("name", COMMANDS)
def test_bash_completes_the_flags_of_all_commands(script: Path, name: str, tmp_path: Path) -> None:
    for flag in ("--help", "--quiet", "--verbose", "--json", "--debug"):
        assert flag in completed(script, f"mtkd {name} {flag[:-1]}", tmp_path)


@needs_bash
def test_bash_completes_files_where_one_is_expected(script: Path, tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").touch()
    (tmp_path / "run.yaml").touch()
    assert completed(script, "mtkd evaluate stu", tmp_path) == {"student.safetensors"}
    assert completed(script, "mtkd launch --config r", tmp_path) == {"run.yaml"}
    assert completed(script, "mtkd launch --distil.steps r", tmp_path) == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_the_script_of_the_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([shell]) == 0
    text = capsys.readouterr().out
    assert text == script_of(shell) + "\n"
    for word in ("verify-run", "crosskd", "distil.steps", "json"):
        assert word in text
    assert main([shell, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["script"] == script_of(shell)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("mtkd ev", {"evaluate"}),
        ("mtkd upscale --sel", {"--self-ensemble"}),
        ("mtkd launch --method cross", {"crosskd"}),
        ("mtkd launch --distil.ste", {"--distil.steps"}),
    ],
)
def test_fish_completes_commands_flags_and_choices(line: str, offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "mtkd.fish").write_text(script_of("fish"))
    words = f"source {tmp_path / 'mtkd.fish'}; complete -C '{line}'"
    done = subprocess.run(["fish", "-c", words], capture_output=True, text=True, check=True)
    assert {row.partition("\t")[0] for row in done.stdout.splitlines()} == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_that_is_there_reads_its_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "mtkd").write_text(script_of(shell))
    done = subprocess.run([shell, "-n", str(tmp_path / "mtkd")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
