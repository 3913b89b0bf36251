from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from mtkd_dist.report.comparison import Cell, Comparison, Scores, reference_means, summaries
from tests.comparisons import EDSR, RLFN, SETS, cell, comparison, scores


def _constant(psnr_y: float) -> Scores:
    return scores(lambda name, image: psnr_y)


def _one_method(*cells: Cell) -> Comparison:
    return Comparison(("mtkd",), (EDSR,), (1, 2, 3), cells)


def test_a_cell_survives_json() -> None:
    one = cell()
    again = Cell(**json.loads(json.dumps(asdict(one))))
    assert summaries(_one_method(again)) == summaries(_one_method(one))


def test_a_mean_is_over_images_and_its_deviation_over_seeds() -> None:
    cells = [cell(seed=seed, scored=_constant(psnr)) for seed, psnr in ((1, 30.0), (2, 31.0), (3, 32.0))]
    (line,) = summaries(_one_method(*cells))
    assert line.scores["Set5"]["psnr_y"] == (31.0, 1.0, 3)
    assert line.scores["Kodak"]["ssim_y"] == pytest.approx((0.81, 0.01, 3))


def test_images_of_one_cell_weigh_the_same() -> None:
    values = {"baby": 30.0, "bird": 33.0, "butterfly": 27.0, "kodim01": 20.0, "kodim02": 21.0}
    (line,) = summaries(_one_method(cell(scored=scores(lambda name, image: values[image]))))
    assert line.scores["Set5"]["psnr_y"].mean == 30.0
    assert line.scores["Kodak"]["psnr_y"].mean == 20.5


def test_one_seed_has_no_deviation() -> None:
    (line,) = summaries(_one_method(cell()))
    assert line.scores["Set5"]["psnr_y"].deviation is None


def test_time_is_a_mean_over_seeds() -> None:
    (line,) = summaries(_one_method(cell(seed=1), cell(seed=3)))
    assert (line.seeds, line.seconds, line.steps) == (2, 200.0, 500)


def test_a_method_without_a_cell_has_a_line_without_numbers() -> None:
    grid = comparison(without=[("mtkd", EDSR, seed) for seed in (1, 2, 3)])
    line = next(one for one in summaries(grid) if (one.method, one.student) == ("mtkd", EDSR))
    assert (line.seeds, line.steps, line.seconds, line.scores) == (0, None, None, {})


def test_missing_cells_are_named_in_the_order_of_the_grid() -> None:
    without = [("mtkd", RLFN, 2), ("scratch", EDSR, 3), ("mtkd", EDSR, 1)]
    assert comparison(without=without).missing == [("scratch", EDSR, 3), ("mtkd", EDSR, 1), ("mtkd", RLFN, 2)]


def test_students_of_unequal_steps_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"mtkd of edsr.*seed 1.* 500 steps and mtkd of edsr.*seed 2.* 600"):
        _one_method(cell(seed=1), cell(seed=2, steps=600))


def test_one_student_of_two_sizes_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"seed 1, has 40031 parameters and mtkd of edsr.*seed 2, 7; they are not the"):
        _one_method(cell(seed=1), replace(cell(seed=2), params=7))


def test_a_cell_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mtkd of edsr.*seed 1, is there twice"):
        _one_method(cell(), cell())


def test_a_cell_outside_the_grid_is_refused_with_what_is_planned() -> None:
    with pytest.raises(
        ValueError, match=r"kd of edsr.* none of the planned cells; methods: mtkd; students: .*; seeds: 1"
    ):
        _one_method(cell("kd"))


def test_an_image_that_one_student_lacks_counts_for_none() -> None:
    whole = cell(seed=1, scored=_constant(30.0))
    less = {"Set5": dict.fromkeys(("baby", "bird"), (32.0, 0.9)), "Kodak": whole.scores["Kodak"]}
    grid = _one_method(whole, cell(seed=2, scored=less))
    assert grid.images == {"Set5": ["baby", "bird"], "Kodak": list(SETS["Kodak"])}
    assert grid.left_out == {"Set5": ["butterfly"]}
    (line,) = summaries(grid)
    assert line.scores["Set5"]["psnr_y"].mean == 31.0


def test_a_set_that_one_seed_was_not_scored_on_counts_the_others() -> None:
    part: Scores = {"Set5": _constant(31.0)["Set5"]}
    (line,) = summaries(_one_method(cell(seed=1, scored=_constant(30.0)), cell(seed=2, scored=part)))
    assert line.scores["Set5"]["psnr_y"].seeds == 2
    assert line.scores["Kodak"]["psnr_y"] == (30.0, None, 1)


def test_references_are_means_over_the_images_that_count() -> None:
    bicubic = reference_means(comparison())["bicubic"]
    assert list(bicubic) == list(SETS)
    for mean in bicubic.values():
        assert mean == pytest.approx((26.0, 0.76))


def test_a_reference_without_one_of_the_images_has_no_mean() -> None:
    part = {"Set5": _constant(31.0)["Set5"], "Kodak": {"kodim01": (31.0, 0.8)}}
    grid = Comparison(("mtkd",), (EDSR,), (1,), [cell()], {"teacher": part})
    assert list(reference_means(grid)["teacher"]) == ["Set5"]


def test_a_score_that_is_no_number_stays_visible() -> None:
    broken = cell(seed=2, scored=_constant(math.nan))
    (line,) = summaries(_one_method(cell(seed=1), broken))
    assert np.isnan(line.scores["Set5"]["psnr_y"].mean)
