"""The page of a run: what it says of which facts."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from mtkd_dist.config.shares import PoolShares
from mtkd_dist.report.history import Past, Steps
from mtkd_dist.report.page.facts import Facts, Stage, Weights
from mtkd_dist.report.page.palette import FAMILIES, looks
from mtkd_dist.report.page.render import render
from mtkd_dist.report.page.scores import headline, spectra
from mtkd_dist.report.page.trainings import blocks, stage_lines
from mtkd_dist.report.tables import ROLES


def row(model: str, role: str, psnr: float, params: int | None = 1000, name: str = "Set5") -> dict[str, Any]:
    scores = {"psnr_y": psnr, "ssim_y": 0.9}
    return {"model": model, "role": role, "set": name, "scale": 4, "params": params} | scores


ROWS = [
    row("bicubic", "bicubic", 28.0, 0),
    row("rlfn", "teacher", 32.0, 500_000),
    row("craft", "teacher", 32.5, 800_000),
    row("student", "student", 31.25, 200_000),
]


def trained(name: str, steps: int = 20, finished: bool = True, **values: float) -> Stage:
    pools = {"students": PoolShares(0.5, 0.5, 0.0)} | ({} if "/" in name else {"teachers": PoolShares(0.75, 0.0, 0.25)})
    past = [Steps(done, 2.0 * done, {"loss": 1 / done, **values}, pools) for done in range(1, steps + 1)]
    scored = tuple({"step": step, "validation_psnr_y": 30.0 + step} for step in range(10, steps + 1, 10))
    summary = {"limit": f"{name} was limited", "images_per_second": 12.0} if finished else {}
    return Stage(name, finished, 20, 30.0 if finished else None, Past(tuple(past), scored, 1), summary)


def page(**facts: Any) -> str:
    return render(Facts("run", **facts), Path())


# Words and numbers


def test_the_headline_compares_the_student_with_bicubic_and_the_best_teacher() -> None:
    assert headline(ROWS, "Set5", 4) == (
        "On Set5 ×4 the student scores 31.25 dB: 3.25 dB above bicubic, and 1.25 dB below the best teacher, craft, "
        "with 25% of its parameters."
    )
    assert headline(ROWS[:3], "Set5", 4) == ""
    assert headline([ROWS[0], row("student", "student", 28.001)], "Set5", 4).endswith(": as much as bicubic.")


def test_spectra_are_shown_as_shares_of_bicubic_with_the_values_beside_them() -> None:
    bands = [
        {"model": "bicubic", "set": "Set5", "scale": 4, "bands": {"LL3": 2.0, "LH1": 4.0}},
        {"model": "student", "set": "Set5", "scale": 4, "bands": {"LL3": 1.0, "LH1": 3.0}},
    ]
    ((figure, table),) = spectra(bands, looks({"bicubic": "bicubic", "student": "student"}))
    assert "student 50 in LL3 and 75 in LH1" in figure.charts[0][1]
    assert [["".join(text for text, _ in cell) for cell in line] for line in table.lines] == [
        ["bicubic", "2.00", "4.00"],
        ["student", "1.00", "3.00"],
    ]
    assert [cell[0][1] for cell in table.lines[1]] == [False, True, True]  # least in bold


def test_trainings_are_shown_stage_by_stage_and_teachers_together() -> None:
    stages = [trained("teachers/a"), trained("teachers/b"), trained("aggregate"), trained("distil")]
    found = blocks(stages, {})
    assert [block.title for block in found] == ["Teachers", "Aggregate", "Distil"]
    assert [[figure.title for figure in block.figures] for block in found] == [
        ["Loss", "Validation PSNR-Y [dB]", "Where the time went, since the start"]
    ] * 3
    assert [said for said, _ in found[0].figures[2].charts] == [
        "a: 50% working, 50% starved, 0% held back",
        "b: 50% working, 50% starved, 0% held back",
    ]
    assert [said.split(":")[0] for said, _ in found[2].figures[2].charts] == ["teachers", "students"]
    assert found[0].limits == [("a", "teachers/a was limited"), ("b", "teachers/b was limited")]


def test_each_of_several_students_has_a_curve_of_its_own_loss() -> None:
    of_both = {"student/loss": 0.25, "small/loss": 0.75}
    stage = trained("distil", **of_both)
    (block,) = blocks([Stage(**{**vars(stage), "more_students": ["small"]})], {})
    assert [(key.name, key.text) for key in block.figures[0].legend] == [("student", "0.25"), ("student-small", "0.75")]


def test_a_stage_without_curves_has_its_sentence() -> None:
    (block,) = blocks([Stage("distil", True, 20, 1.0, summary={"limit": "reading was the limit"})], {})
    assert (block.figures, block.limits) == ([], [("student", "reading was the limit")])


def test_the_table_of_stages_tells_what_is_done_and_how_long_it_took() -> None:
    twice = Past((Steps(10, 90.0, {}, {}),), (), 2)
    stages = [
        trained("aggregate"),
        Stage("distil", False, 20, past=twice),
        Stage("evaluate", True, None, 4.0),
    ]
    assert stage_lines(stages) == [
        ["aggregate", "20", "12", "40 s"],
        ["distil", "10 of 20", "–", "1 min 30 s (2 starts)"],
        ["evaluate", "–", "–", "4 s"],
    ]


# Colours


def test_no_two_models_look_the_same_and_the_student_always_looks_like_the_student() -> None:
    names = {f"{role} {i}": role for role in ROLES if role != "model" for i in range(1 + 9 * (role == "teacher"))}
    found = looks(names)
    assert len(set(found.values())) == len(names)
    assert found["student 0"] == looks({"s": "student"})["s"]


def colours() -> dict[str, tuple[str, str]]:
    """Name -> its colour in the light and in the dark theme."""
    css = (files("mtkd_dist.report.page") / "templates" / "style.css").read_text()
    return {name: (light, dark) for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)", css)}


def contrast(one: str, other: str) -> float:
    """As WCAG 2 defines it, from 1 to 21."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_in_both_themes(theme: int) -> None:
    found = {name: of[theme] for name, of in colours().items()}
    for ground in ("ground", "card"):
        for text in ("text", "muted", "accent"):
            assert contrast(found[text], found[ground]) >= 4.5, (text, ground)
        for name in found:
            if name.startswith("c-") and not name.endswith("share"):
                assert contrast(found[name], found[ground]) >= 3, (name, ground)
    assert contrast(found["text"], found["notice"]) >= 4.5


def test_every_colour_of_a_model_is_defined() -> None:
    assert {f"c-{name}" for family in FAMILIES.values() for name in family} <= colours().keys()


# The page as a whole


def test_a_page_without_facts_is_a_page() -> None:
    html = page()
    assert "<h1>run</h1>" in html
    assert "This run is not finished." in html
    assert "<section" not in html


def test_a_half_done_run_says_so_and_shows_what_is_there() -> None:
    html = page(stages=[trained("teachers/a"), trained("distil", steps=7, finished=False)])
    assert "half done is distil (7 of 20 steps)" in html
    assert 'id="training"' in html
    assert 'id="scores"' not in html


def test_a_finished_run_says_nothing_of_the_kind() -> None:
    assert "not finished" not in page(stages=[trained("distil"), Stage("evaluate", True)])


def test_whatever_a_run_is_called_and_made_of_is_text() -> None:
    evil = "<img src=x onerror=alert(1)>"
    html = page(
        rows=[row(evil, "teacher", 30.0, name=evil), row("student", "student", 29.0, name=evil)],
        weights=[Weights(evil, "teacher", evil, 5, evil, evil)],
        settings={"method": evil, "student": evil, "scale": 4},
        settings_text=evil,
        environment={"started": evil, "versions": {"mtkd-dist": evil}},
        files={evil: evil},
    )
    assert "<img" not in html
    assert html.count("&lt;img") > 10


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    html = page(rows=ROWS, stages=[trained("distil")], files={"a b/": "a folder"})
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert set(re.findall(r"(?:src|href|url)[=(]['\"]?([^'\")>]*)", html)) == {
        "data:,",
        "#scores",
        "#training",
        "#files",
        "a%20b/",
    }
