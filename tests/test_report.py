from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.report import progress as progress_module
from mtkd_dist.report.counter import counter
from mtkd_dist.report.grid import sample_grid
from mtkd_dist.report.progress import Progress, duration, remaining_seconds
from mtkd_dist.report.screen import capture_output
from mtkd_dist.report.tables import markdown_table, parameters_text, scores_table, split_tables, summary

# capture_output


def test_everything_but_the_console_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "launch.log"
    with capture_output(log) as console:
        print("from print")
        os.write(1, b"from descriptor 1\n")
        os.write(2, b"from descriptor 2\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        logging.StreamHandler().emit(logging.makeLogRecord({"msg": "from logging"}))
        console.print("for the user")
    out, err = capfd.readouterr()
    assert (out, err) == ("for the user\n", "")
    text = log.read_text()
    for source in ("print", "descriptor 1", "descriptor 2", "a child", "logging"):
        assert f"from {source}\n" in text
    assert text.index("print") < text.index("descriptor 1") < text.index("descriptor 2") < text.index("child")


def test_log_is_continued_and_output_restored(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    before = sys.stdout, sys.stderr
    for text in ("first", "second"):
        with capture_output(log):
            print(text)
    assert (sys.stdout, sys.stderr) == before
    os.write(1, b"out again\n")
    print("error again", file=sys.stderr)
    assert capfd.readouterr() == ("out again\n", "error again\n")
    assert log.read_text() == "first\nsecond\n"


def test_output_is_restored_after_an_exception(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    open_before = sorted(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else []
    with pytest.raises(ZeroDivisionError), capture_output(tmp_path / "log"):
        print(1 / 0)
    assert open_before == (sorted(os.listdir("/proc/self/fd")) if open_before else [])
    print("back")
    assert capfd.readouterr().out == "back\n"


def test_text_in_a_buffered_stdout_keeps_its_side(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from mtkd_dist.report.screen import capture_output
old = sys.stdout
print("before", end="")
with capture_output(Path(sys.argv[1])) as console:
    old.write("inside by an old reference")
    console.print(" console", end="")
print(" after", end="")
"""
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", script, str(log)], check=True, capture_output=True, text=True)
    assert done.stdout == "before console after"
    assert log.read_text() == "inside by an old reference"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_console_is_the_terminal_with_its_width(tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    script = """
import sys, warnings
from pathlib import Path
from mtkd_dist.report.screen import capture_output
with capture_output(Path(sys.argv[1])) as console:
    print("hidden")
    warnings.warn("hidden too")
    console.print(f"terminal={console.is_terminal} width={console.width}", highlight=False)
"""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 133, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "log")],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm"},
    )
    os.close(theirs)
    assert os.read(ours, 4096).decode() == "terminal=True width=133\r\n"
    os.close(ours)
    assert "UserWarning: hidden too" in (tmp_path / "log").read_text()


# Progress


class _Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 100.0
        monkeypatch.setattr(progress_module.time, "monotonic", lambda: self.now)


POOLS = {"teachers": PoolShares(0.8, 0.15, 0.05)}


def test_plain_lines_are_the_first_the_last_and_one_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch)
    out = io.StringIO()
    with Progress(Console(file=out, width=40), "distil", total_steps=26) as progress:
        for step in range(2, 27):
            clock.now += 1
            progress.update(step, None if step == 2 else 0.25, 12.34, POOLS)
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["distil 2/26", "distil 12/26", "distil 22/26", "distil 26/26"]
    assert lines[0].split("  ")[1:4] == ["loss -", "12.3 img/s", "time left -"]
    assert lines[1].split("  ")[1:4] == ["loss 0.25", "12.3 img/s", "14 s left"]
    assert lines[1].endswith("teachers: 80% working, 15% starved, 5% held back")


def test_last_plain_line_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    _Clock(monkeypatch)
    out = io.StringIO()
    with Progress(Console(file=out), "distil", 1) as progress:
        progress.update(1, 0.5, 1.0, {})
    assert out.getvalue().count("\n") == 1


def test_terminal_shows_one_live_line_and_one_for_each_pool() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None, _environ={"TERM": "xterm"})
    stdout = sys.stdout
    with Progress(console, "distil", 200) as progress:
        assert sys.stdout is stdout
        progress.update(150, 0.0123, 812.3, POOLS)
    assert "150/200  loss 0.0123  812.3 img/s" in out.getvalue()
    assert "teachers  80% working, 15% starved, 5% held back" in out.getvalue()


def test_what_is_on_its_way_has_a_line_below_the_pools() -> None:
    out = io.StringIO()
    with Progress(Console(file=out), "distil", 1) as progress:
        progress.update(1, 0.5, 1.0, POOLS, "3 of 8 slots ready")
    assert out.getvalue().endswith("5% held back  link: 3 of 8 slots ready\n")


def test_time_left_counts_only_the_steps_since_the_first_update() -> None:
    assert remaining_seconds(first_step=100, step=110, total_steps=130, elapsed_seconds=5.0) == 10.0
    assert remaining_seconds(first_step=100, step=100, total_steps=130, elapsed_seconds=5.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Counter


@pytest.mark.parametrize(("total", "lines"), [(3, [1, 2, 3]), (40, [*range(4, 41, 4)]), (1, [1])])
def test_elsewhere_than_on_a_terminal_a_count_is_at_most_ten_lines(total: int, lines: list[int]) -> None:
    out = io.StringIO()
    with counter(Console(file=out), "photographs", total) as advance:
        for _ in range(total):
            advance()
    assert out.getvalue().splitlines() == [f"photographs {done}/{total}" for done in lines]


def test_on_a_terminal_a_count_is_a_bar_that_leaves_nothing_behind() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None, _environ={"TERM": "xterm"})
    with counter(console, "photographs", 4) as advance:
        for _ in range(4):
            advance()
    assert "4/4" in out.getvalue()
    assert out.getvalue().endswith("\x1b[1A\x1b[2K")  # one line up, and it is wiped


# Tables


def _row(
    model: str, role: str, psnr: float, ssim: float, params: int | None = None, name: str = "Set5"
) -> dict[str, Any]:
    return {
        "model": model,
        "role": role,
        "set": name,
        "scale": 4,
        "psnr_y": psnr,
        "ssim_y": ssim,
        "params": params,
    }


ROWS = [
    _row("small", "student", 32.0, 0.89, 897_000),
    _row("small", "student", 28.5, 0.78, 897_000, "Set14"),
    _row("avg", "mean", 32.6, 0.9),
    _row("zeta", "teacher", 32.5, 0.9, 15_592_355),
    _row("alpha", "teacher", 32.7, 0.898, 11_900_000),
    _row("dctswin", "aggregate", float("nan"), 0.899, 2_345_678),
    _row("bicubic", "bicubic", 28.42, 0.8104),
]


def _plain(renderable: Any, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_markdown_has_a_line_a_model_in_the_order_of_roles_with_the_best_bold() -> None:
    assert markdown_table(ROWS).splitlines() == [
        "| model | role | params | Set5 ×4 | Set14 ×4 |",
        "| --- | --- | ---: | ---: | ---: |",
        "| bicubic | bicubic | – | 28.42 / 0.8104 | – |",
        "| zeta | teacher | 15.6M | 32.50 / **0.9000** | – |",
        "| alpha | teacher | 11.9M | **32.70** / 0.8980 | – |",
        "| avg | mean | – | 32.60 / **0.9000** | – |",
        "| dctswin | aggregate | 2.35M | nan / 0.8990 | – |",
        "| small | student | 897K | 32.00 / 0.8900 | **28.50** / **0.7800** |",
    ]


def test_terminal_table_has_the_same_lines_and_bold() -> None:
    table = scores_table(ROWS)
    models = [str(cell) for cell in table.columns[0].cells]
    assert models == ["bicubic", "zeta", "alpha", "avg", "dctswin", "small"]
    alpha = list(table.columns[3].cells)[2]
    assert [(alpha.plain[span.start : span.end], span.style) for span in alpha.spans if span.style] == [
        ("32.70", "bold")
    ]


def test_of_a_distance_the_lowest_is_bold() -> None:
    rows = [row | {"lpips": lpips} for row, lpips in zip(ROWS[2:4], (0.2, 0.1), strict=True)]
    assert markdown_table(rows, ["lpips"]).splitlines()[2:] == [
        "| zeta | teacher | 15.6M | **0.1000** |",
        "| avg | mean | – | 0.2000 |",
    ]


def test_a_self_ensemble_is_never_in_a_table_with_plain_rows() -> None:
    rows = [row | {"psnr_rgb": 30.0, "ssim_rgb": 0.8, "dists": 0.1} for row in (ROWS[3], ROWS[3] | {"model": "zeta+"})]
    tables = split_tables(rows, ensembles={"zeta+"})
    assert [([row["model"] for row in table.rows], table.metrics) for table in tables] == [
        ([model], metrics)
        for model in ("zeta", "zeta+")
        for metrics in (("psnr_y", "ssim_y"), ("psnr_rgb", "ssim_rgb"), ("dists",))
    ]
    assert tables[0].caption == "PSNR-Y [dB] / SSIM-Y, best in bold"
    assert tables[5].caption == (
        "DISTS, best in bold (lower is better); self-ensemble: mean over 8 flips and rotations"
    )


def test_narrow_terminal_keeps_every_model_name() -> None:
    rows = [_row("dctswin", "aggregate", 32.0, 0.9, 1, f"Benchmark{n}") for n in range(5)]
    assert "dctswin" in _plain(scores_table(rows), width=80)


def test_unknown_role_is_named() -> None:
    with pytest.raises(ValueError, match=r"'x' has role 'pupil'; expected one of bicubic"):
        scores_table([_row("x", "pupil", 1, 1)])


def test_two_scores_for_one_model_and_set_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'small' has two scores for Set5 ×4"):
        markdown_table([ROWS[0], ROWS[0]])


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"),
        (0, "–"),
        (512, "512"),
        (1500, "1.50K"),
        (897_000, "897K"),
        (999_600, "1.00M"),
        (11_900_000, "11.9M"),
        (123_400_000, "123M"),
    ],
)
def test_parameter_counts_have_a_human_unit(count: int | None, text: str) -> None:
    assert parameters_text(count) == text


def test_summary_says_scores_times_and_files() -> None:
    text = _plain(summary(ROWS, {"aggregate": 345.0}, {"student": "out/student.safetensors"}))
    assert "dctswin" in text
    assert "aggregate  5 min 45 s" in text
    assert "student  out/student.safetensors" in text
    assert "limited" not in text


def test_summary_says_what_limited_each_stage() -> None:
    text = _plain(summary(ROWS, {}, {}, {"distil": "the teachers were the limit"}))
    assert "What limited the run" in text
    assert "distil  the teachers were the limit" in text


# Grid


def test_grid_puts_images_side_by_side_and_enlarges_lr_by_squares(tmp_path: Path) -> None:
    lr = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)
    hr = np.full((40, 80, 3), 7, dtype=np.uint8)
    out = tmp_path / "new" / "grid.png"
    sample_grid({"LR": lr, "HR": hr}, out)
    strip = np.asarray(Image.open(out))
    assert strip.shape == (8 + 21 + 40 + 8, 8 + 80 + 8 + 80 + 8, 3)
    assert np.array_equal(strip[29:69, 8:88], lr.repeat(4, 0).repeat(4, 1))
    assert np.array_equal(strip[29:69, 96:176], hr)


def test_grid_writes_a_label_above_each_panel(tmp_path: Path) -> None:
    black = np.zeros((40, 80, 3), dtype=np.uint8)
    sample_grid({"LR": black, "": black}, tmp_path / "grid.png")
    strip = np.asarray(Image.open(tmp_path / "grid.png"))
    assert strip[8:29, 8:88].min() < 100
    assert strip[8:29, 96:176].min() == 255


def test_grid_is_as_wide_as_a_long_label(tmp_path: Path) -> None:
    sample_grid({"a very long name of a teacher": np.zeros((8, 8, 3), dtype=np.uint8)}, tmp_path / "grid.png")
    strip = np.asarray(Image.open(tmp_path / "grid.png"))
    assert strip.shape[1] > 150
    assert strip[:, :8].min() == strip[:, -8:].min() == 255


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({}, "no images"),
        ({"a": np.zeros((8, 8, 3), np.float32)}, "'a' is float32"),
        ({"a": np.zeros((8, 8), np.uint8)}, r"shape \(8, 8\)"),
        ({"a": np.zeros((8, 8, 3), np.uint8), "b": np.zeros((12, 8, 3), np.uint8)}, "'a' is 8 pixels high"),
    ],
)
def test_grid_names_what_it_cannot_draw(images: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        sample_grid(images, tmp_path / "grid.png")
