"""The report of a run's folder: gathered from what lies there, and looked at in a real browser."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtkd_dist import launch, report_run
from mtkd_dist.cli import main
from mtkd_dist.report.page.pictures import details_that_fit
from mtkd_dist.stages.run_report import FILE, gather, write_report
from tests.browser import Browser, browser
from tests.run_folder import LIMIT, MODELS, write_run, write_training

SECTIONS = ["Scores", "Details", "Spectrum of the error", "Training", "Weights", "Settings", "Environment", "Files"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    write_report(run, run / FILE)
    return run / FILE


# From the folder


def test_all_that_a_finished_run_left_is_found(run: Path) -> None:
    facts = gather(run)
    assert facts.name == "run"
    assert facts.settings["method"] == "mtkd"
    assert [row["model"] for row in facts.rows] == list(MODELS)
    assert [row["model"] for row in facts.bands] == list(MODELS)
    assert {entry["image"] for entry in facts.details} == {"chelsea.png", "coffee.png"}
    assert [stage.name for stage in facts.stages] == [
        *("teachers/edsr-baseline", "teachers/rcan", "teachers/swinir-light", "aggregate", "distil", "evaluate")
    ]
    assert all(stage.finished for stage in facts.stages)
    distil = facts.stages[4]
    assert (distil.steps, distil.past.done, distil.past.starts, distil.summary["limit"]) == (600, 600, 2, LIMIT)
    assert [(one.name, one.role, one.params) for one in facts.weights] == [
        ("edsr-baseline", "teacher", 159_000),
        ("rcan", "teacher", 101_000),
        ("swinir-light", "teacher", 41_200),
        ("aggregator", "aggregator", None),
        ("student", "student", 26_400),
        ("student-edsr-baseline-width-8-blocks-2", "student", 4_321),
    ]
    assert facts.environment["cluster"]["CPUs"] == "2"
    for place in facts.files:
        assert (run / place).exists()


def test_of_a_half_done_run_what_is_there_is_found(tmp_path: Path) -> None:
    write_training(tmp_path, "teachers/a", "edsr", 40)
    write_training(tmp_path, "distil", "rlfn", 80, finished=False)
    teacher, distil = gather(tmp_path).stages
    assert (teacher.finished, teacher.seconds) == (True, 185.0)
    assert (distil.finished, distil.seconds, distil.past.done, distil.steps) == (False, None, 60, 80)
    write_report(tmp_path, tmp_path / FILE)
    assert "half done is distil (60 of 80 steps)" in (tmp_path / FILE).read_text()


def test_a_training_that_is_made_anew_is_shown_as_it_is_now(tmp_path: Path) -> None:
    write_training(tmp_path, "distil", "edsr", 40)
    write_training(tmp_path, "distil", "rlfn", 80, finished=False)
    facts = gather(tmp_path)
    assert [(stage.finished, stage.steps) for stage in facts.stages] == [(False, 80)]
    assert facts.weights == []


def test_curves_outlive_the_checkpoints(tmp_path: Path) -> None:
    write_training(tmp_path, "distil", "edsr", 40)
    (checkpoints,) = (tmp_path / "distil").glob("checkpoints-*")
    shutil.rmtree(checkpoints)
    assert gather(tmp_path).stages[0].past.done == 40


def test_a_password_in_an_address_is_not_sent_around(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: ['https://me:secret@host/photos']\nmethod: mtkd\n")
    write_report(tmp_path, tmp_path / FILE)
    html = (tmp_path / FILE).read_text()
    assert "host/photos" in html
    assert "secret" not in html


def test_details_are_left_out_where_a_page_would_grow_too_large(run: Path) -> None:
    details = gather(run).details
    assert len(list(details_that_fit(run, details))) == 2
    assert len(list(details_that_fit(run, details, most_bytes=1000))) == 1


def test_a_detail_that_lost_a_picture_is_left_out(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    first, second = gather(run).details
    (copy / first["panels"]["HR"]).unlink()
    assert [entry["name"] for entry, _, _ in details_that_fit(copy, [first, second])] == [second["name"]]


# The command


def test_the_command_writes_the_page_beside_the_run_or_elsewhere(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "page.html"
    assert main(["report", str(run), "--output", str(elsewhere)]) == 0
    assert capsys.readouterr().out == f"report  {elsewhere}\n"
    link = f'href="{Path("..") / run.parent.name / "run"}/scores.json"'
    assert link in elsewhere.read_text() or "/run/scores.json" in elsewhere.read_text()
    assert report_run.main([str(run)]) == 0
    assert 'href="scores.json"' in (run / FILE).read_text()


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_run.main([str(tmp_path)]) == 2
    assert f"error: {tmp_path}: there is neither a config.yaml nor a stage" in capsys.readouterr().err
    assert not (tmp_path / FILE).exists()


def test_a_file_in_the_place_of_a_folder_is_wrong_usage(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "config.yaml"
    assert report_run.main([str(file)]) == 2
    assert f"error: {file} is no folder; expected the output folder of a launch" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("method: mtkd\n")
    (tmp_path / "scores.json").write_text("[{")
    assert report_run.main([str(tmp_path)]) == 2
    assert f"{tmp_path / 'scores.json'} cannot be read" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_run.main([str(run), "--output", str(run / "none" / "page.html")]) == 1
    assert "none/page.html cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_report_that_fails_is_a_warning_of_the_launch_and_not_its_end(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: mtkd\n")
    (tmp_path / "scores.json").write_text("[{")
    told: list[str] = []
    assert launch._write_report(tmp_path, told.append) == []
    (text,) = told
    assert text.startswith("warning: there is no report (ValueError: ")
    assert f"`mtkd report {tmp_path}` tries again" in text


# In a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


def sections(chromium: Browser) -> list[str]:
    script = "return [...document.querySelectorAll('main h2')].map(h => h.checkVisibility() ? h.textContent : '')"
    return chromium.driver.execute_script(script)


def beyond_the_edge(chromium: Browser) -> list[str]:
    """What makes the page wider than the screen; what scrolls within a box of its own does not."""
    script = """
        const wide = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= wide) return [];
        return [...document.body.querySelectorAll('*')]
            .filter(e => e.getBoundingClientRect().right > wide + 1 && !e.closest('.wide, pre'))
            .map(e => e.outerHTML.slice(0, 100));"""
    return chromium.driver.execute_script(script)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_whole_on_a_desk_and_on_a_phone_in_both_themes(page: Path, screenshots: Path, theme: str) -> None:
    with browser(dark=theme == "dark") as chromium:
        for width in (1280, 390):
            chromium.open(page, width)
            assert sections(chromium) == SECTIONS
            assert chromium.driver.execute_script("return document.documentElement.scrollWidth") <= width
            assert beyond_the_edge(chromium) == []
            assert chromium.driver.execute_script("return document.images.length") == 22
            ground = chromium.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 18, 23)"}[theme]
            assert chromium.faults() == []
            height = chromium.driver.execute_script("return document.documentElement.scrollHeight")
            chromium.open(page, width, height)
            chromium.screenshot(screenshots / f"report-{theme}-{width}.png")


def test_theme_zoom_and_comparison_need_no_script(chromium: Browser, page: Path, screenshots: Path) -> None:
    chromium.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    chromium.open(page)
    look = chromium.driver.execute_script  # of the driver, not of the page

    def style(selector: str, name: str, pseudo: str = "") -> str:
        element = f"document.querySelector('{selector}')"
        return look(f"return getComputedStyle({element}, '{pseudo}').getPropertyValue('{name}')")

    before = style("body", "background-color")
    look("document.querySelector('#theme-dark').click()")
    assert style("body", "background-color") != before
    look("document.querySelector('#zoom-2').click()")
    assert style(".crop", "width") == "288px"
    assert style(".crop.model .picture", "opacity", "::after") == "0"
    look("document.querySelector('.crop.model').focus()")
    assert style(".crop.model .picture", "opacity", "::after") == "1"  # the truth, in the same place
    look("document.querySelector('#show-errors').click(); document.activeElement.blur()")
    assert style(".crop.model .picture", "mix-blend-mode", "::after") == "difference"
    look("document.querySelector('#details').scrollIntoView({behavior: 'instant'})")
    chromium.screenshot(screenshots / "report-errors.png")
    assert chromium.faults() == []


def test_pictures_and_tables_speak_to_those_who_do_not_see_them(chromium: Browser, page: Path) -> None:
    chromium.open(page)
    unnamed = """
        return [...document.querySelectorAll(`img:not([alt]), img[alt=""], svg[role=img]:not(:has(> title)),
            table:not(:has(caption)), tbody tr:not(:has(th[scope=row])), thead th:not([scope])`)]
            .map(e => e.outerHTML.slice(0, 100))"""
    assert chromium.driver.execute_script(unnamed) == []
    levels = "return [...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])"
    found = chromium.driver.execute_script(levels)
    assert all(after <= before + 1 for before, after in itertools.pairwise(found))


def test_the_page_is_a_few_hundred_kilobytes(page: Path) -> None:
    assert page.stat().st_size < 1_500_000
