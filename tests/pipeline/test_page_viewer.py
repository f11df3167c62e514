"""The viewer of slices in the report's page, in a real Chromium."""

from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.pipeline.pages import DEEP, FLAT, LOW, SIDE, SLICES, WINDOWS, grey, set_range, shown, stack

pytestmark = pytest.mark.browser

MIDDLE = SLICES // 2
START = f"{MIDDLE} 3 2 0 false"


def test_each_stop_shows_its_own_pixels_in_each_window(page: Page, page_run: Path) -> None:
    middle = SLICES // 2
    stops = {"low dose": (LOW, "2 0 0"), "denoised": (DEEP, "3 2 0"), "full dose": ("full", f"3 2 {SIDE}")}
    for window in WINDOWS:
        page.get_by_label(window).check()
        for name, (model, state) in stops.items():
            page.get_by_role("button", name=name).click()
            pixels = shown(page, f"{middle} {state} false")
            np.testing.assert_array_equal(pixels, grey(stack(page_run, model)[middle], window), f"{name}, {window}")


def test_halfway_the_next_image_comes_in_from_the_left(page: Page, page_run: Path) -> None:
    page.get_by_label("Denoised by").select_option("2D-DDnet")
    set_range(page, "wipe", 0.25)
    edge = SIDE // 4
    pixels = shown(page, f"{SLICES // 2} 1 0 {edge} false")
    low, flat = (grey(stack(page_run, model)[SLICES // 2]) for model in (LOW, FLAT))
    np.testing.assert_array_equal(pixels, np.concatenate([flat[:, :edge], low[:, edge:]], axis=1))
    assert page.locator("#viewer-left").inner_text() == "2D-DDnet"
    assert page.locator("#viewer-right").inner_text() == "low dose (25 %)"


def test_the_difference_map_is_in_hu(page: Page, page_run: Path) -> None:
    page.get_by_label("minus the full dose").check()
    set_range(page, "wipe", 0)
    pixels = shown(page, f"{SLICES // 2} 2 0 0 true")
    change = (stack(page_run, LOW)[SLICES // 2].astype(int) - stack(page_run, "full")[SLICES // 2])[1:]
    colours = {-100: (179, 88, 6), 0: (247, 247, 247), 50: (178, 171, 210), 100: (84, 39, 136)}
    for hu, colour in colours.items():
        mask = change <= -100 if hu == -100 else change >= 100 if hu == 100 else change == hu
        assert mask.any()
        assert (pixels[1:][mask] == colour).all(), hu
    assert page.locator("#viewer-scale").is_visible()
    assert page.locator("#viewer-right").inner_text() == "low dose (25 %) minus full dose"


def test_the_pointer_reads_out_hu(page: Page, page_run: Path) -> None:
    canvas = page.locator("#viewer-canvas")
    box = canvas.bounding_box()
    assert box
    canvas.hover(position={"x": box["width"] * 20.5 / SIDE, "y": box["height"] * 30.5 / SIDE})
    readout = page.locator("#viewer-told")
    low, deep, full = (stack(page_run, model)[SLICES // 2, 30, 20] for model in (LOW, DEEP, "full"))
    expect(readout).to_have_text(
        f"Row 30, column 20: low dose (25 %) {low} HU, 3D-DDnet (3d-s16-r1) {deep} HU, full dose {full} HU"
    )


def test_the_wheel_scrolls_the_page_until_the_image_has_the_focus(page: Page) -> None:
    canvas = page.locator("#viewer-canvas")
    canvas.hover()
    top = page.evaluate("scrollY")
    page.mouse.wheel(0, 100)
    page.wait_for_function("top => scrollY > top", arg=top)
    shown(page, START)
    canvas.click()
    top = page.evaluate("scrollY")
    page.mouse.wheel(0, -100)
    shown(page, f"{MIDDLE + 1} 3 2 0 false")  # a click alone has not wiped
    page.mouse.wheel(0, 100)
    shown(page, START)
    assert page.evaluate("scrollY") == top
    page.keyboard.press("Escape")
    page.mouse.wheel(0, 100)
    page.wait_for_function("top => scrollY > top", arg=top)
    shown(page, START)


def test_small_turns_of_a_touchpad_add_up_to_a_slice(page: Page) -> None:
    page.locator("#viewer-canvas").click()
    for _ in range(9):
        page.mouse.wheel(0, -10)
    shown(page, f"{MIDDLE + 1} 3 2 0 false")


def test_keys_change_slices_and_wipe(page: Page, page_run: Path) -> None:
    canvas = page.locator("#viewer-canvas")
    canvas.focus()
    steps = {"ArrowUp": MIDDLE + 1, "ArrowDown": MIDDLE, "Home": 0, "PageUp": 5, "End": SLICES - 1,
             "PageDown": SLICES - 6}  # fmt: skip
    for key, number in steps.items():
        page.keyboard.press(key)
        pixels = shown(page, f"{number} 3 2 0 false")
        np.testing.assert_array_equal(pixels, grey(stack(page_run, DEEP)[number]), key)
    page.keyboard.press("ArrowLeft")
    shown(page, f"{SLICES - 6} 2 0 {round(0.95 * SIDE)} false")
    assert (
        canvas.get_attribute("aria-label") == f"Slice {SLICES - 5} of {SLICES}: 3D-DDnet (3d-s16-r1) | low dose (25 %)"
    )
    page.keyboard.press("ArrowRight")
    shown(page, f"{SLICES - 6} 3 2 0 false")
    page.keyboard.press("Control+ArrowUp")  # the browser's
    page.keyboard.press("ArrowUp")
    shown(page, f"{SLICES - 5} 3 2 0 false")


def test_a_drag_wipes_and_the_edge_follows_the_pointer(page: Page, page_run: Path) -> None:
    canvas = page.locator("#viewer-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box
    y = box["y"] + 5

    def drag(*shares: float) -> None:
        page.mouse.move(box["x"] + 0.5 * box["width"], y)
        page.mouse.down()
        for share in shares:
            page.mouse.move(box["x"] + share * box["width"], y)
        page.mouse.up()

    drag(0.6, 0.25)
    pixels = shown(page, f"{MIDDLE} 2 0 {SIDE // 4} false")
    low, deep = (grey(stack(page_run, model)[MIDDLE]) for model in (LOW, DEEP))
    np.testing.assert_array_equal(pixels, np.concatenate([deep[:, : SIDE // 4], low[:, SIDE // 4 :]], axis=1))
    page.mouse.move(box["x"] + 0.9 * box["width"], y)  # without a button
    drag(0.6, -0.2)
    shown(page, f"{MIDDLE} 2 0 0 false")
    drag(0.6, 1.2)
    shown(page, START)
    set_range(page, "wipe", 1.5)
    drag(0.6, 0.75)
    shown(page, f"{MIDDLE} 3 2 {3 * SIDE // 4} false")


def test_a_finger_wipes_along_the_image_and_scrolls_across_it(browser: Browser, page_run: Path) -> None:
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.goto((page_run / "report" / "index.html").as_uri())
    canvas = page.locator("#viewer-canvas")
    canvas.scroll_into_view_if_needed()
    shown(page, START)
    assert canvas.evaluate("canvas => getComputedStyle(canvas).touchAction") == "pan-y"
    box = canvas.bounding_box()
    assert box
    touches = context.new_cdp_session(page)
    for kind, share in (("Start", 0.9), ("Move", 0.7), ("Move", 0.25)):
        point = {"x": box["x"] + share * box["width"], "y": box["y"] + 20}
        touches.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": [point]})
    touches.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    shown(page, f"{MIDDLE} 2 0 {SIDE // 4} false")
    context.close()


def test_the_focus_on_the_image_is_seen_however_it_came(page: Page) -> None:
    canvas = page.locator("#viewer-canvas")
    outline = "canvas => getComputedStyle(canvas).outlineStyle"
    assert canvas.evaluate(outline) == "none"
    canvas.click()
    assert canvas.evaluate(outline) == "solid"
    page.keyboard.press("Escape")
    assert canvas.evaluate(outline) == "none"
    page.locator("#viewer-wipe").focus()
    page.keyboard.press("Shift+Tab")
    assert canvas.evaluate(outline) == "solid"


def test_the_caption_says_what_is_shown(page: Page) -> None:
    caption = page.locator("#viewer-caption")
    text = f"Slice {MIDDLE + 1} of {SLICES}: 3D-DDnet (3d-s16-r1), in the lung window (centre -600 HU, width 1500 HU)."
    expect(caption).to_have_text(text)
    page.get_by_label("mediastinum").check()
    page.get_by_role("button", name="full dose").click()
    expect(caption).to_contain_text("full dose, in the mediastinum window (centre 40 HU, width 400 HU).")
    page.get_by_label("minus the full dose").check()
    expect(caption).to_contain_text("from orange at -100 HU to purple at +100 HU")
