from __future__ import annotations

from pathlib import Path

from tests.browser import browser


def test_the_browser_of_the_tests_names_a_broken_image_and_a_failed_script(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<img src='none.png'><script>throw new Error('a script failed')</script>")
    with browser() as chromium:
        chromium.open(page)
        faults = "\n".join(chromium.faults())
        assert "broken image" in faults
        assert "a script failed" in faults
        page.write_text("<p>all is well</p>")
        chromium.open(page, width=390)
        assert chromium.faults() == []
        assert chromium.driver.execute_script("return innerWidth") <= 980


def test_a_dark_browser_asks_pages_for_their_dark_colours(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>a page")
    with browser(dark=True) as chromium:
        chromium.open(page)
        assert chromium.driver.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")
