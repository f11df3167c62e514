"""What the tests of the report's page share."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.pipeline.pages import write_hostile_report
from tests.shared_runs import fill_once


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs: apt-get install chromium")
    with sync_playwright() as playwright:
        sandboxed = [] if os.getuid() else ["--no-sandbox"]
        yield playwright.chromium.launch(executable_path=chromium, args=sandboxed)


@pytest.fixture(scope="session")
def page_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_once(tmp_path_factory, "page", write_hostile_report)


@pytest.fixture
def page(browser: Browser, page_run: Path) -> Iterator[Page]:
    """The page, opened from its file; at the end it must have been silent, and asked for nothing."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.extend([message.text] * (message.type == "error")))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: said.extend([request.url] * (not request.url.startswith(("file:", "data:")))))
    page.goto((page_run / "report" / "index.html").as_uri())
    page.wait_for_selector("#viewer[data-drawn]")
    yield page
    assert said == []
    page.close()
