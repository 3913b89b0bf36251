"""A real headless browser for tests of pages: it says what did not load and which scripts failed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # the user of CI is root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# An image that is broken was asked for, and has no pixels.
_BROKEN_IMAGES = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"


class Browser:
    """Chromium behind its driver. `driver` is Selenium's, for all that is not offered here."""

    def __init__(self, dark: bool = False) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        for flag in _FLAGS:
            options.add_argument(flag)
        if dark:
            options.add_argument("--force-dark-mode")  # what prefers-color-scheme sees, too
        options.binary_location = shutil.which("chromium") or ""
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

    def open(self, page: str | Path, width: int = 1280, height: int = 900) -> None:
        """A URL or a file, in a viewport of `width` x `height` CSS pixels, also narrower than a window can be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(page.resolve().as_uri() if isinstance(page, Path) else page)

    def faults(self) -> list[str]:
        """Errors of scripts and of loading since the last call, and images without pixels; empty when all is well."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return said + [f"broken image: {source[:200]}" for source in self.driver.execute_script(_BROKEN_IMAGES)]

    def screenshot(self, file: Path) -> None:
        """The visible part of the page as PNG."""
        file.parent.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(file))


@contextmanager
def browser(dark: bool = False) -> Iterator[Browser]:
    """A browser that ends with the block; the test is skipped, with the reason, where there is none."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program} on the path (Debian: apt-get install chromium chromium-driver)")
    started = Browser(dark)
    try:
        yield started
    finally:
        started.driver.quit()
