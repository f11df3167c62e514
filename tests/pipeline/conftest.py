"""What tests of trainings share, and those of the report's page."""

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.settings.cells import CellSettings
from tests.pipeline.doses import write_doses
from tests.pipeline.pages import write_hostile_report
from tests.pipeline.trainings import Trained, run
from tests.shared_runs import fill_once


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pair of several doses, which nobody changes; some tests of trainings have another pair."""
    return fill_once(tmp_path_factory, "doses", write_doses)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train a cell to its end, once for all tests: its folder, to be compared with and copied, and its result."""

    @cache
    def train_once(settings: CellSettings) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("whole")
        return folder, run(settings, data, folder)

    return train_once


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
