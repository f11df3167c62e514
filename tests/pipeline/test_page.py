"""The report's page in a real Chromium: its tables, its texts, its size."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page

from pipeline.report.write import write_report
from pipeline.settings.cells import cells_of
from tests.pipeline.pages import DEEP, FLAT, HOSTILE, LOW
from tests.pipeline.runs import WITH_RED_CNN, fill, judge, settings_of
from tests.scans import chest

pytestmark = pytest.mark.browser

PAGE_BYTES = 25e6


def test_every_control_is_reached_by_tab(page: Page) -> None:
    reached = set()
    for _ in range(300):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("(e => e.id || e.name || e.value || e.tagName)(document.activeElement)"))
    controls = ("canvas", "wipe", "model", "slice", "difference")
    assert {f"viewer-{name}" for name in controls} | {"window", "0", "1", "2", "SUMMARY", "BUTTON", "A"} <= reached


def test_tables_sort_by_number_and_keep_what_is_empty_last(page: Page) -> None:
    table = page.locator("#trainings ~ .scroll table").first
    names = [name.split(" ↕")[0] for name in table.locator("th").all_inner_texts()]

    def column(name: str) -> list[str]:
        return table.locator(f"tbody tr td:nth-child({names.index(name) + 1})").all_inner_texts()

    def header(name: str) -> Locator:
        return table.locator("th").nth(names.index(name))

    header("ranks").get_by_role("button").click()
    assert column("ranks") == ["1", "1", "2", "4", "16"]
    assert header("ranks").get_attribute("aria-sort") == "ascending"
    header("ranks").get_by_role("button").press("Enter")
    assert column("ranks") == ["16", "4", "2", "1", "1"]
    assert header("ranks").get_attribute("aria-sort") == "descending"
    for _ in range(2):
        header("training (s)").get_by_role("button").click()
        assert column("training (s)")[-1] == ""  # the failed training's
    assert table.locator("th[aria-sort]").count() == 1


def test_a_training_has_a_page_of_its_own(page: Page) -> None:
    details = page.locator(f"#cell-{DEEP}")
    assert not details.locator("dl").is_visible()
    page.locator(f"a[href='#cell-{DEEP}']").first.click()
    details.locator("dl").wait_for(state="visible")
    assert details.locator("polyline").count() == 2
    assert "2619155" in details.inner_text()


def test_hours_have_their_price(page: Page) -> None:
    assert "At 1.5 EUR a GPU-hour that is 28.50 EUR." in page.inner_text("#bill + p")


def test_hostile_texts_are_shown_and_do_nothing(page: Page) -> None:
    assert HOSTILE in page.locator("#scans ~ .scroll").inner_text()
    assert HOSTILE in page.locator("#slices ~ p").first.inner_text()
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    assert HOSTILE in page.locator("#cell-3d-s16-r16").inner_text()
    assert page.locator("img[src=x]").count() == 0


def test_what_slips_in_is_neither_run_nor_fetched(browser: Browser, page_run: Path) -> None:
    page = browser.new_page()
    page.goto((page_run / "report" / "index.html").as_uri())
    page.evaluate("""() => {
        document.body.insertAdjacentHTML("beforeend", "<img src='figures/fig9-slices.png' onerror='window.ran = 1'>");
        const script = document.createElement("script");
        script.textContent = "window.ran = 2";
        document.body.append(script);
    }""")
    page.wait_for_timeout(200)
    assert page.evaluate("[window.ran, document.body.lastElementChild.previousElementSibling.naturalWidth]") == [
        None,
        0,
    ]
    page.close()


def test_a_study_of_24_cells_stays_below_25_mb(tmp_path: Path) -> None:
    study = {"slices": [16, 32], "ranks": [1, 2, 4, 8], "transfer": ["none", "zero", "repeat"]}
    settings = settings_of(networks=WITH_RED_CNN, study=study, report={"formats": []})
    cells = cells_of(settings)
    ids = [cell.id for cell in cells]
    noise = np.random.default_rng(0).normal(0, 20, (16, 512, 512))
    full = (chest(16, 512) + noise).clip(-1024, 3071).round().astype(np.int16)
    fill(tmp_path, cells, ids, lines=500)
    for model in (LOW, FLAT, "redcnn", DEEP):
        judge(tmp_path, model, full)
    write_report(tmp_path, settings, cells, dict.fromkeys(ids, ("done", "")), [LOW, *ids], pd.DataFrame())
    assert 10e6 < (tmp_path / "report" / "index.html").stat().st_size < PAGE_BYTES
