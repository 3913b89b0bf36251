from __future__ import annotations

import csv
import io
import math

import pytest
from rich.console import Console

from mtkd_dist.report.comparison import Comparison
from mtkd_dist.report.comparison_csv import differences_csv, scores_csv, summary_csv
from mtkd_dist.report.comparison_differences import difference
from mtkd_dist.report.comparison_tables import markdown, screen
from tests.comparisons import EDSR, RLFN, SETS, cell, comparison, scores


def _constant(method: str, seed: int, psnr_y: float) -> Comparison:
    return Comparison((method,), (EDSR,), (seed,), [cell(method, seed=seed, scored=scores(lambda n, i: psnr_y))])


def _lines(text: str, start: str) -> list[list[str]]:
    """The cells of the table lines that start with this text."""
    return [
        [part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(start)
    ]


def _shown(grid: Comparison, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(screen(grid))
    return console.file.getvalue()  # type: ignore[attr-defined]


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def _two_seeds(scratch: tuple[float, float], mtkd: tuple[float, float]) -> Comparison:
    cells = [
        cell(method, seed=seed, scored=scores(lambda name, image, psnr=psnr: psnr))  # type: ignore[misc]
        for method, values in (("scratch", scratch), ("mtkd", mtkd))
        for seed, psnr in enumerate(values, 1)
    ]
    return Comparison(("scratch", "mtkd"), (EDSR,), (1, 2), cells)


def test_a_line_has_mean_spread_steps_time_and_bytes() -> None:
    grid = _two_seeds((30.0, 31.0), (30.5, 31.5))
    assert _lines(markdown(grid), "| scratch |") == [
        ["scratch", "2", *["30.50 ± 0.71 / 0.8050 ± 0.0071"] * len(SETS), "500", "2 min 30 s", "3,072"]
    ]


def test_the_best_of_a_student_and_set_is_bold() -> None:
    text = markdown(_two_seeds((30.0, 31.0), (30.5, 31.5)))
    assert _lines(text, "| mtkd |")[0][2] == "**31.00 ± 0.71** / **0.8100 ± 0.0071**"


def test_students_have_tables_of_their_own_and_references_too() -> None:
    text = markdown(comparison())
    titles = [line for line in text.splitlines() if line.startswith("### ")][:3]
    assert titles == [f"### {EDSR} (40.0K parameters)", f"### {RLFN} (40.0K parameters)", "### References"]
    assert _lines(text, "| bicubic |") == [["bicubic", "26.00 / 0.7600", "26.00 / 0.7600"]]


def test_the_set_up_is_a_paragraph_of_the_settings() -> None:
    assert "photographs: 800 of DIV2K; scale: ×4." in markdown(comparison())


def test_a_complete_comparison_misses_nothing() -> None:
    assert "Missing" not in markdown(comparison())


def test_missing_students_are_named_and_counted() -> None:
    without = [("mtkd", EDSR, 1), ("mtkd", EDSR, 3), ("mean", RLFN, 2)]
    grid = comparison(without=without)
    sentence = (
        f"Missing (failed, or not done yet) are 3 of 18 students: mtkd of {EDSR}, seeds 1, 3; mean of {RLFN}, seed 2."
    )
    assert sentence in markdown(grid)
    assert sentence in _shown(grid, width=400)
    assert _lines(markdown(grid), "| mtkd |")[0][1] == "1 of 3"


def test_a_method_without_a_student_shows_dashes() -> None:
    grid = comparison(without=[("mtkd", EDSR, seed) for seed in (1, 2, 3)])
    text = markdown(grid)
    assert _lines(text, "| mtkd |")[0] == ["mtkd", "0 of 3", "–", "–", "–", "–", "–"]
    assert _lines(text, "| Set5 | mtkd − scratch |")[0][2:] == ["–"] * 7


def test_without_any_student_the_references_are_shown() -> None:
    whole = comparison()
    grid = Comparison(whole.methods, whole.students, whole.seeds, [], whole.references)
    text = markdown(grid)
    assert "are 18 of 18 students" in text
    assert _lines(text, "| bicubic |") == [["bicubic", "26.00 / 0.7600", "26.00 / 0.7600"]]
    assert "18 of 18" in _shown(grid)


def test_a_difference_has_three_intervals_and_the_number_of_pairs() -> None:
    grid = comparison()
    one = difference(grid, "mtkd", "scratch", EDSR, "Set5", "psnr_y")
    line = _lines(markdown(grid), "| Set5 | mtkd − scratch |")[0]
    assert line[2] == f"**{one.mean:+.3f}**"
    assert one.intervals.images is not None
    assert line[4] == f"[{one.intervals.images.low:+.3f}, {one.intervals.images.high:+.3f}]"
    assert line[-1] == "3 × 3"


def test_with_one_seed_only_the_interval_over_images_is_shown() -> None:
    line = _lines(markdown(comparison(seeds=(1,))), "| Set5 | mtkd − scratch |")[0]
    assert [text == "–" for text in line[3:6]] == [True, False, True]


def test_what_does_not_exclude_zero_is_not_bold() -> None:
    line = _lines(markdown(_two_seeds((30.0, 31.0), (30.5, 30.7))), "| Set5 | mtkd − scratch |")[0]
    assert line[2] == "+0.100"


def test_images_that_were_left_out_are_named() -> None:
    part = {"Set5": {"baby": (30.0, 0.8)}, "Kodak": cell().scores["Kodak"]}
    grid = Comparison(("mtkd", "kd"), (EDSR,), (1,), [cell(), cell("kd", scored=part)])
    assert "Left out of Set5, because not every student was scored on them: bird, butterfly." in markdown(grid)


def test_scores_that_are_no_numbers_are_named() -> None:
    text = markdown(_constant("kd", 1, math.nan))
    assert f"Not finite are scores of kd of {EDSR}, seed 1, on Set5;" in text
    assert "nan" in text


def test_one_method_is_a_table_without_differences() -> None:
    text = markdown(_constant("kd", 1, 30.0))
    assert "30.00" in text
    assert "Difference" not in text
    assert "difference" not in _shown(_constant("kd", 1, 30.0))


@pytest.mark.parametrize("plot", [None, "comparison.png"])
def test_the_picture_is_in_the_file_where_there_is_one(plot: str | None) -> None:
    assert ("](comparison.png)" in markdown(comparison(), plot)) == (plot is not None)


def test_the_screen_has_scores_and_differences_of_every_student() -> None:
    text = _shown(comparison())
    one = difference(comparison(), "mtkd", "scratch", RLFN, "Kodak", "psnr_y")
    assert EDSR in text
    assert RLFN in text
    assert f"{one.mean:+.3f} [" in text


def test_a_narrow_screen_cuts_no_number() -> None:
    wide, narrow = (" ".join(_shown(comparison(), width).split()) for width in (200, 80))
    numbers = {word for word in wide.split() if word[:2] in ("29", "30", "31")}
    assert numbers
    assert numbers <= set(narrow.split())


def test_scores_as_csv_are_all_images_in_full_precision() -> None:
    grid = comparison(("scratch", "mtkd"), (EDSR,), (1, 2))
    rows = _rows(scores_csv(grid))
    images = sum(map(len, SETS.values()))
    assert len(rows) == images * (len(grid.cells) + len(grid.references))
    row = next(one for one in rows if (one["method"], one["seed"], one["image"]) == ("mtkd", "2", "bird"))
    written = next(one for one in grid.cells if (one.method, one.seed) == ("mtkd", 2)).scores["Set5"]["bird"]
    assert (float(row["psnr_y"]), float(row["ssim_y"])) == written


def test_references_have_no_student_and_no_seed_in_csv() -> None:
    rows = [row for row in _rows(scores_csv(comparison())) if row["method"] == "bicubic"]
    assert {(row["student"], row["seed"]) for row in rows} == {("", "")}


def test_the_summary_as_csv_has_a_row_for_each_method_student_set_and_metric() -> None:
    rows = _rows(summary_csv(_two_seeds((30.0, 31.0), (30.5, 31.5))))
    assert len(rows) == 2 * 1 * len(SETS) * 2
    assert [rows[0][name] for name in ("method", "set", "metric")] == ["scratch", "Set5", "psnr_y"]
    assert [rows[0][name] for name in ("seeds", "mean")] == ["2", "30.5"]
    assert [rows[0][name] for name in ("steps", "seconds", "bytes_per_sample")] == ["500", "150.0", "3072.0"]


def test_a_missing_method_has_empty_fields_in_csv() -> None:
    grid = comparison(without=[("mtkd", EDSR, seed) for seed in (1, 2, 3)])
    row = next(one for one in _rows(summary_csv(grid)) if (one["method"], one["student"]) == ("mtkd", EDSR))
    assert (row["seeds"], row["mean"], row["steps"]) == ("0", "", "")


def test_differences_as_csv_have_each_pair_once_with_the_ends_of_its_intervals() -> None:
    grid = comparison()
    rows = _rows(differences_csv(grid))
    assert len(rows) == 3 * 2 * len(SETS) * 2
    one = difference(grid, "mtkd", "mean", RLFN, "Kodak", "ssim_y")
    names = ("mtkd", "mean", RLFN, "Kodak", "ssim_y")
    row = next(
        row for row in rows if tuple(row[k] for k in ("method", "baseline", "student", "set", "metric")) == names
    )
    assert one.intervals.joint is not None
    assert (float(row["joint_low"]), float(row["joint_high"])) == one.intervals.joint
