"""What all commands have in common: help, exit statuses, errors in words, --quiet, --verbose, --json and --debug."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from mtkd_dist import habits
from mtkd_dist.cli import COMMANDS, main
from mtkd_dist.command import work_in
from mtkd_dist.compare.load import load_compare
from mtkd_dist.config.load import ConfigError, load_config
from mtkd_dist.habits import EXIT_FAILED, Habits, Result, command, take_flags
from mtkd_dist.pools.errors import ClusterError, TrainingFailed
from mtkd_dist.pools.placement import LayoutError
from mtkd_dist.report.screen import even_if_quiet
from mtkd_tune.load import load_sweep

READ: dict[str, Callable[[list[str]], object]] = {"launch": load_config, "compare": load_compare, "tune": load_sweep}
"""Commands whose settings are a configuration -> who reads it; others read their words by what shows their help."""


# Help


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with contextlib.suppress(SystemExit):
        assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


@pytest.mark.usefixtures("columns")
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_the_help_of_every_command_fits_a_screen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        lines = help_of([name, flag] if name else [flag], capsys).splitlines()
        assert len(lines) <= 23  # of 24, the last is that of the prompt
        assert max(map(len, lines)) <= 80
    assert all(word in " ".join(lines) for word in habits.FLAGS)


def example_of(name: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The words of the example in the help of a command, without those that start it."""
    text = help_of([name, "--help"], capsys).partition("example:\n")[2].partition("\n\n")[0]
    words = shlex.split(text.replace("\\\n", " ").partition(" > ")[0])
    for start in (["mtkd", name], ["python", "-m", "mtkd_tune"]):
        if words[: len(start)] == start:
            return words[len(start) :]
    raise AssertionError(f"{text!r} is no example of {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_of_every_command_can_be_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text("seed: 1\n")
    words = example_of(name, capsys)
    assert words
    module = importlib.import_module(COMMANDS[name][0])
    READ.get(name, lambda words: module.parser().parse_args(words))(take_flags(words)[1])


@pytest.mark.parametrize("name", READ)
def test_help_all_lists_every_setting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of([name, "--help-all"], capsys)
    assert len(text.splitlines()) > 50
    assert "--cluster.address" in text


@pytest.mark.parametrize("name", READ)
def test_flags_in_the_short_help_are_settings(name: str) -> None:
    module = importlib.import_module(COMMANDS[name][0])
    own = {"-h", "--help", "--help-all", "--config"}
    flags = {flag for action in module.parser()._actions for flag in action.option_strings} - own
    known: dict[str, dict[str, list[str]]] = {
        "launch": {"--scale": ["4"], "--num-gpus": ["1"], "--plan-only": [], "--preset": ["demo"]},
        "compare": {"--seeds": ["1"], "--num-gpus": ["1"], "--cell.gpus": ["0.5"], "--preset": ["demo"]},
        "tune": {"--num-samples": ["1"], "--trial.gpus": ["0.5"], "--num-gpus": ["1"], "--resume": []}
        | {"--objectives": ["params"], "--scheduler": ["pbt"], "--target": ["distil"]},
    }
    for flag in flags:
        READ[name]([flag, *known[name].get(flag, ["mtkd"])])


# How a command ends


def run(capsys: pytest.CaptureFixture[str], work: Callable[[list[str], Habits], object], *words: str) -> Any:
    """Status, stdout and stderr."""
    return command(words, work), *capsys.readouterr()


def failing(error: BaseException) -> Callable[[list[str], Habits], object]:
    def work(words: list[str], habits: Habits) -> object:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigError("scale: 5 is not allowed"), 2, "error: scale: 5 is not allowed\n"),
        (LayoutError("--num-gpus 8: too many"), 2, "error: --num-gpus 8: too many\n"),
        (ValueError("a.pth is torn"), 1, "error: a.pth is torn\n"),
        (ClusterError("nobody answers"), 1, "error: nobody answers\n"),
        (TrainingFailed("rank 0 died"), 1, "error: rank 0 died\n"),
        (KeyError("x"), 1, "error: KeyError: 'x'\n--debug shows the traceback\n"),
        (KeyboardInterrupt("Saved."), 130, "Saved.\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_end_is_a_status_and_a_sentence_on_stderr(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ([], ["--quiet"], ["--verbose"]):
        assert run(capsys, failing(error), *flags) == (status, "", told)


def test_an_error_of_a_worker_is_told_without_what_ray_adds_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    text = "ray::work() (pid=1)\n  File 'a.py', line 3, in work\nValueError: a.png is torn"
    error = RayTaskError("work", text, ValueError("a.png is torn")).as_instanceof_cause()
    assert isinstance(error, ValueError)
    status, out, err = run(capsys, failing(error))
    assert (status, out) == (1, "")
    assert err == "error: ValueError: a.png is torn\n--debug shows the traceback\n"


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, failing(KeyError("x")), "--debug")
    assert (status, out) == (1, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert "in work" in err
    assert err.endswith("error: KeyError: 'x'\n")


def test_a_long_sentence_is_not_cut_into_lines(capsys: pytest.CaptureFixture[str]) -> None:
    text = "word " * 100 + "[end]"
    assert run(capsys, failing(ValueError(text)))[2] == f"error: {text}\n"


# --json, --quiet, --verbose


def shows(words: list[str], habits: Habits) -> object:
    console = habits.console()
    console.print("at work")
    with even_if_quiet(console):
        console.print("all done")
    return {"words": words, "file": Path("a/b"), "none": float("nan"), "of": (1, 2)}


DOCUMENT = {"words": [], "file": "a/b", "none": None, "of": [1, 2]}


def test_a_result_is_on_stdout_and_json_is_nothing_else_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, shows) == (0, "at work\nall done\n", "")
    status, out, err = run(capsys, shows, "--json")
    assert (status, json.loads(out), err) == (0, DOCUMENT, "at work\nall done\n")


def test_quiet_leaves_the_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, shows, "--quiet") == (0, "all done\n", "")
    status, out, err = run(capsys, shows, "--quiet", "--json")
    assert (status, json.loads(out), err) == (0, DOCUMENT, "all done\n")


def test_a_result_may_be_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, lambda words, habits: Result({"fine": False}, EXIT_FAILED), "--json")
    assert (status, json.loads(out)) == (1, {"fine": False})


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigError("no"), 2, "no"),
        (ValueError("no"), 1, "no"),
        (KeyboardInterrupt("Saved."), 130, "Saved."),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_a_json_document_too(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, out, _ = run(capsys, failing(error), "--json")
    assert (ended, json.loads(out)) == (status, {"error": told, "exit_status": status})


def test_flags_of_all_commands_are_taken_out_and_others_keep_their_order() -> None:
    words = ["--quiet", "a", "--data", "x", "y", "--json", "--scale", "-1", "--debug"]
    assert take_flags(words) == (Habits(quiet=True, json=True, debug=True), ["a", "--data", "x", "y", "--scale", "-1"])
    assert take_flags(["--jso", "--quiet=1"][:1]) == (Habits(), ["--jso"])


def test_quiet_and_verbose_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, shows, "--quiet", "--verbose")
    assert (status, out) == (2, "")
    assert "--verbose" in err
    assert "not allowed with" in err


def test_json_of_a_command_that_writes_a_file_may_name_one() -> None:
    assert take_flags(["--json", "rows.json", "a"], json_file=True) == (Habits(json_file=Path("rows.json")), ["a"])
    for words in (["a", "--json"], ["a", "--json", "-"]):
        assert take_flags(words, json_file=True) == (Habits(json=True), ["a"])


# Commands with a log


def logs(words: list[str], habits: Habits) -> object:
    def work(console: Any) -> object:
        print("of a worker")
        logging.getLogger("mtkd_dist").info("said")
        console.print("said")
        with even_if_quiet(console):
            console.print("all done")
        if words[1:] == ["fails"]:
            raise KeyError("x")
        if words[1:] == ["stops"]:
            raise KeyboardInterrupt("distil is saved.")
        return {}

    return work_in(Path(words[0]), "x.log", "launch", "It goes on.", habits, work)


@pytest.mark.parametrize(
    ("flags", "out", "err"),
    [
        ([], "said\nall done\n", ""),
        (["--quiet"], "all done\n", ""),
        (["--json"], "{}\n", "said\nall done\n"),
        (["--json", "--quiet"], "{}\n", "all done\n"),
    ],
)
def test_what_workers_print_is_in_the_log_alone(
    flags: list[str], out: str, err: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command([str(tmp_path), *flags], logs) == 0
    assert capfd.readouterr() == (out, err)
    assert "of a worker\n" in (tmp_path / "x.log").read_text()


def test_verbose_shows_the_log_and_nothing_twice(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.log").write_text("of an earlier run\n")
    assert command([str(tmp_path), "--verbose"], logs) == 0
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == ["all done", "of a worker", "said"]
    assert err == ""


def test_the_traceback_of_what_goes_wrong_is_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for flags in ([], ["--verbose"], ["--quiet"]):
        assert command([str(tmp_path), "fails", *flags], logs) == 1
        out, err = capfd.readouterr()
        story = f"The whole story is in {tmp_path / 'x.log'}. --debug shows the traceback"
        assert err == f"error: KeyError: 'x'\n{story}\n"
        assert "Traceback" not in out
    assert "Traceback" in (tmp_path / "x.log").read_text()


def test_what_was_saved_is_said_before_what_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command([str(tmp_path), "stops"], logs) == 130
    assert capfd.readouterr().err == "Interrupted. distil is saved. It goes on.\n"


@pytest.mark.parametrize(("error", "kept"), [(ValueError("no"), False), (KeyError("x"), True), (None, False)])
def test_a_scratch_log_is_kept_where_it_helps(
    error: Exception | None, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["tempfile"], "tempdir", str(tmp_path))

    def work(words: list[str], habits: Habits) -> object:
        with habits.scratch_log("x"):
            print("of a worker")
            if error is not None:
                raise error
        return {}

    assert command([], work) == (0 if error is None else 1)
    texts = [log.read_text() for log in tmp_path.glob("mtkd-x-*.log")]
    assert len(texts) == kept
    assert all("of a worker" in text and "Traceback" in text for text in texts)


# Whoever reads has gone


UNREAD = """
import sys
from mtkd_dist.habits import command

def work(words, habits):
    for line in range(3):
        habits.tell("before")
    with habits.scratch_log("x") as console:
        console.print("at work")
        console.file.flush()
    open(words[0], "w").close()
    if words[1:]:
        raise ValueError("it went wrong")
    return {}

sys.exit(command(sys.argv[1:], work))
"""


@pytest.mark.parametrize(
    ("words", "unread", "status", "rest"),
    [
        ([], "stdout", 0, ""),
        (["--json"], "stdout", 0, "before\nbefore\nbefore\nat work\n"),
        (["fails"], "stdout", 1, "error: it went wrong\n"),
        (["--json"], "stderr", 0, "{}\n"),
        (["fails"], "stderr", 1, "before\nbefore\nbefore\nat work\n"),
    ],
)
def test_the_work_is_done_in_silence_where_nobody_reads(
    words: list[str], unread: str, status: int, rest: str, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    streams: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, unread: writer}
    command = [sys.executable, "-c", UNREAD, str(tmp_path / "done"), *words]
    done = subprocess.run(command, **streams, text=True, check=False)  # type: ignore[call-overload]
    os.close(writer)
    assert (tmp_path / "done").exists()
    assert (done.returncode, done.stderr if unread == "stdout" else done.stdout) == (status, rest)


# The commands


def test_an_unknown_command_is_wrong_usage_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lunch"]) == 2
    said = "error: unknown command 'lunch'. Did you mean 'launch'? `mtkd --help` lists them.\n"
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_flag_of_every_command_is_wrong_usage_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "x", "--no-such-flag", "--json"]) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert "--help" in err
    assert json.loads(out)["exit_status"] == 2


def test_ctrl_c_while_a_command_is_loaded_ends_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert main(["upscale"]) == 130
    assert capsys.readouterr() == ("", "")
