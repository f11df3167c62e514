"""The report's page in a real Chromium."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from pipeline.report.write import write_report
from pipeline.settings.cells import cells_of
from tests.pipeline.runs import Hu, fill, judge, settings_of
from tests.scans import chest

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror=alert(1)></script><script>alert(2)</script>"&'
SIDE, SLICES = 64, 5
PAGE_BYTES = 25e6
WINDOWS = {"lung": (-600, 1500), "mediastinum": (40, 400), "bone": (400, 1800)}
LOW, FLAT, DEEP = "low-dose", "2d", "3d-s16-r1"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs: apt-get install chromium")
    with sync_playwright() as playwright:
        sandboxed = [] if os.getuid() else ["--no-sandbox"]
        yield playwright.chromium.launch(executable_path=chromium, args=sandboxed)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study with hostile texts, one failed training, and pixels at both ends of int16."""
    root = tmp_path_factory.mktemp("run")
    cells = cells_of(settings_of(study={"slices": [16], "ranks": [1, 2, 16]}))
    ids = [cell.id for cell in cells]
    full = chest(SLICES, SIDE)
    full[:, 0, :4] = -32768, 32767, -32768, 32767
    fill(root, cells, ids[:-1], HOSTILE, full, lines=40)
    states = {**dict.fromkeys(ids, ("done", "")), ids[-1]: ("failed", HOSTILE)}
    given = pd.DataFrame({"stage": [HOSTILE, "study"], "item": ["", DEEP], "gpu_hours": [10.0, 9.0]})
    write_report(root, settings_of(budget={"gpu_hour_price": 1.5}), cells, states, [LOW, *ids[:-1]], given)
    return root


@pytest.fixture
def page(browser: Browser, run: Path) -> Iterator[Page]:
    """The page, opened from its file; at the end it must have been silent, and asked for nothing."""
    page = browser.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.extend([message.text] * (message.type == "error")))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: said.extend([request.url] * (not request.url.startswith(("file:", "data:")))))
    page.goto((run / "report" / "index.html").as_uri())
    page.wait_for_selector("#viewer[data-drawn]")
    yield page
    assert said == []
    page.close()


def stack(run: Path, model: str) -> Hu:
    """HU of a model's example, or of the full dose."""
    with np.load(run / "evaluation" / f"{LOW if model == 'full' else model}.npz") as example:
        found: Hu = example["full_dose" if model == "full" else "image"]
    return found


def shown(page: Page, after: str) -> NDArray[np.uint8]:
    """RGB of the canvas, (rows, columns, 3), once it shows ``slice left right edge difference``."""
    page.wait_for_selector(f"#viewer[data-drawn='{after}']", timeout=5000)
    data = page.evaluate("""() => {
        const canvas = document.getElementById("viewer-canvas");
        return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
    }""")
    rgba = np.array(data, np.uint8).reshape(SIDE, SIDE, 4)
    assert (rgba[..., 3] == 255).all()
    return rgba[..., :3]


def grey(hu: Hu, window: str = "lung") -> NDArray[np.uint8]:
    centre, width = WINDOWS[window]
    value = 255 * (hu.astype(np.float64) - centre + width / 2) / width
    return np.repeat(np.rint(np.clip(value, 0, 255)).astype(np.uint8)[..., None], 3, axis=2)


def set_range(page: Page, control: str, value: float) -> None:
    page.locator(f"#viewer-{control}").fill(str(value))


def test_each_stop_shows_its_own_pixels_in_each_window(page: Page, run: Path) -> None:
    middle = SLICES // 2
    stops = {"low dose": (LOW, "2 0 0"), "denoised": (DEEP, "3 2 0"), "full dose": ("full", f"3 2 {SIDE}")}
    for window in WINDOWS:
        page.get_by_label(window).check()
        for name, (model, state) in stops.items():
            page.get_by_role("button", name=name).click()
            pixels = shown(page, f"{middle} {state} false")
            np.testing.assert_array_equal(pixels, grey(stack(run, model)[middle], window), f"{name}, {window}")


def test_halfway_the_next_image_comes_in_from_the_left(page: Page, run: Path) -> None:
    page.get_by_label("Denoised by").select_option("2D-DDnet")
    set_range(page, "wipe", 0.25)
    edge = SIDE // 4
    pixels = shown(page, f"{SLICES // 2} 1 0 {edge} false")
    low, flat = (grey(stack(run, model)[SLICES // 2]) for model in (LOW, FLAT))
    np.testing.assert_array_equal(pixels, np.concatenate([flat[:, :edge], low[:, edge:]], axis=1))
    assert page.locator("#viewer-left").inner_text() == "2D-DDnet"
    assert page.locator("#viewer-right").inner_text() == "low dose (25 %)"


def test_the_difference_map_is_in_hu(page: Page, run: Path) -> None:
    page.get_by_label("minus the full dose").check()
    set_range(page, "wipe", 0)
    pixels = shown(page, f"{SLICES // 2} 2 0 0 true")
    change = (stack(run, LOW)[SLICES // 2].astype(int) - stack(run, "full")[SLICES // 2])[1:]
    colours = {-100: (179, 88, 6), 0: (247, 247, 247), 50: (178, 171, 210), 100: (84, 39, 136)}
    for hu, colour in colours.items():
        places = change <= -100 if hu == -100 else change >= 100 if hu == 100 else change == hu
        assert places.any()
        assert (pixels[1:][places] == colour).all(), hu
    assert page.locator("#viewer-scale").is_visible()
    assert page.locator("#viewer-right").inner_text() == "low dose (25 %) minus full dose"


def test_wheel_and_arrow_keys_scroll_and_wipe(page: Page, run: Path) -> None:
    canvas = page.locator("#viewer-canvas")
    canvas.hover()
    page.mouse.wheel(0, -100)
    shown(page, "3 3 2 0 false")
    canvas.focus()
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    np.testing.assert_array_equal(shown(page, f"{SLICES - 1} 3 2 0 false"), grey(stack(run, DEEP)[-1]))
    page.keyboard.press("ArrowLeft")
    shown(page, f"{SLICES - 1} 2 0 {round(0.95 * SIDE)} false")
    assert canvas.get_attribute("aria-label") == "Slice 5 of 5: 3D-DDnet (3d-s16-r1) | low dose (25 %)"


def test_the_pointer_reads_out_hu(page: Page, run: Path) -> None:
    canvas = page.locator("#viewer-canvas")
    box = canvas.bounding_box()
    assert box
    canvas.hover(position={"x": box["width"] * 20.5 / SIDE, "y": box["height"] * 30.5 / SIDE})
    told = page.locator("#viewer-told")
    low, deep, full = (stack(run, model)[SLICES // 2, 30, 20] for model in (LOW, DEEP, "full"))
    expect(told).to_have_text(
        f"Row 30, column 20: low dose (25 %) {low} HU, 3D-DDnet (3d-s16-r1) {deep} HU, full dose {full} HU"
    )


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
    assert column("ranks") == ["1", "1", "2", "16"]
    assert header("ranks").get_attribute("aria-sort") == "ascending"
    header("ranks").get_by_role("button").press("Enter")
    assert column("ranks") == ["16", "2", "1", "1"]
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


def test_what_slips_in_is_neither_run_nor_fetched(browser: Browser, run: Path) -> None:
    page = browser.new_page()
    page.goto((run / "report" / "index.html").as_uri())
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


@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_is_as_wide_as_its_window(browser: Browser, run: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((run / "report" / "index.html").as_uri())
    page.wait_for_selector("#viewer[data-drawn]")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_a_study_of_24_cells_stays_below_25_mb(tmp_path: Path) -> None:
    study = {"slices": [16, 32], "ranks": [1, 2, 4, 8], "transfer": ["none", "zero", "repeat"]}
    settings = settings_of(red_cnn={}, study=study)
    cells = cells_of(settings)
    ids = [cell.id for cell in cells]
    noise = np.random.default_rng(0).normal(0, 20, (16, 512, 512))
    full = (chest(16, 512) + noise).clip(-1024, 3071).round().astype(np.int16)
    fill(tmp_path, cells, ids, lines=500)
    for model in (LOW, FLAT, "redcnn", DEEP):
        judge(tmp_path, model, full)
    write_report(tmp_path, settings, cells, dict.fromkeys(ids, ("done", "")), [LOW, *ids], pd.DataFrame())
    assert 10e6 < (tmp_path / "report" / "index.html").stat().st_size < PAGE_BYTES
