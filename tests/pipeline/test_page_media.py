"""The look of the report's page in a real Chromium: light and dark, on paper, on wide and narrow screens."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

PAPER = {"width": 1032, "height": 703}  # CSS pixels of A4, on its side, within margins of 12 mm
OPEN_ALL = "() => document.querySelectorAll('details').forEach(details => { details.open = true; })"
CONTRASTS = r"""() => {
    const numbers = colour => colour.match(/[\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = element => {
        for (let box = element; box; box = box.parentElement) {
            const colour = numbers(getComputedStyle(box).backgroundColor);
            if ((colour[3] ?? 1) > 0.5) return colour;
        }
        return [255, 255, 255];
    };
    const texts = [...document.querySelectorAll("body *")].filter(element => element.checkVisibility() &&
        [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim()));
    return texts.map(element => {
        const [a, b] = [numbers(getComputedStyle(element).color), ground(element)].map(luminance);
        return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.outerHTML.slice(0, 80)];
    });
}"""
TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter(element => element.checkVisibility() &&
    element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 80))"""
CUT = """() => [...document.querySelectorAll("body *")].filter(element => element.checkVisibility() &&
    getComputedStyle(element).overflowX !== "visible" && element.scrollWidth > element.clientWidth + 1
    ).map(element => element.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.evaluate(OPEN_ALL)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [text for contrast, text in contrasts if contrast < 4.5] == []  # WCAG 2.2, level AA
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground))) < 40 if scheme == "dark" else ground == "rgb(255, 255, 255)"


def test_figures_keep_the_ground_of_paper_in_the_dark(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    corners = page.locator(".figures img").evaluate_all("""images => images.map(image => {
        const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        return [...context.getImageData(1, 1, 1, 1).data, getComputedStyle(image).borderTopColor];
    })""")
    assert len(corners) > 5
    assert {tuple(corner) for corner in corners} == {(255, 255, 255, 255, "rgb(255, 255, 255)")}


def test_print_cuts_nothing(page: Page) -> None:
    page.set_viewport_size(PAPER)  # type: ignore[arg-type]
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate(OPEN_ALL)
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(CUT) == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert [text for contrast, text in page.evaluate(CONTRASTS) if contrast < 4.5] == []
    heights = page.locator("figure, tr").evaluate_all("all => all.map(box => box.getBoundingClientRect().height)")
    assert max(heights) < PAPER["height"]
    breaks = page.locator("figure, tr, .caption").evaluate_all(
        "all => all.map(box => getComputedStyle(box).breakInside)"
    )
    assert set(breaks) == {"avoid"}


def test_the_viewer_is_printed_as_a_still_with_its_caption(page: Page) -> None:
    page.get_by_role("button", name="low dose").click()
    page.wait_for_selector("#viewer[data-drawn^='4 2 0 0']")
    page.emulate_media(media="print")
    assert page.locator("#viewer-canvas").is_visible()
    assert "low dose (25 %), in the lung window" in page.locator("#viewer figcaption").inner_text()
    for hidden in ("nav", ".controls", "#viewer-told", ".hint"):
        assert not page.locator(hidden).first.is_visible()


def test_paper_lies_on_its_side(page: Page) -> None:
    for options in ({"prefer_css_page_size": True}, {"format": "A4"}):
        sizes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", page.pdf(**options))
        assert len(sizes) > 2
        assert all(float(width) > float(height) for width, height in sizes)


def test_what_a_forecast_rests_on_is_seen_without_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 1400, "height": 900})
    table = page.locator("table[aria-describedby=caption-projection]")
    headers = [text.split("\u00a0")[0] for text in table.locator("th").all_inner_texts()]
    fitted, assumed = (
        table.locator(f"tbody tr:first-child td:nth-child({headers.index(name) + 1})") for name in ("fitted", "assumed")
    )
    assert fitted.inner_text() == "1 2 4"
    assert "no exchange is hidden" in assumed.inner_text()
    box = assumed.bounding_box()
    assert box
    assert box["x"] + box["width"] <= 1400
    assert table.evaluate("table => table.parentNode.scrollWidth === table.parentNode.clientWidth")


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_is_as_wide_as_its_window(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(OPEN_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for table in page.locator("table").all():
        box = table.locator("..").bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width


def test_without_scripts_the_page_has_no_control_that_does_nothing(browser: Browser, page_run: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((page_run / "report" / "index.html").as_uri())
    assert page.locator("noscript .warn").is_visible()
    assert page.locator("figure img").first.is_visible()
    assert not any(control.is_visible() for control in page.locator("input, button, select, canvas, .hint").all())
    page.close()


def test_a_long_name_in_the_viewer_does_not_widen_the_page(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    page.evaluate(
        "document.getElementById('viewer-right').textContent = `3D-DDnet (${'a_long_name_'.repeat(3)}-s16-r1)`"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_overlaps(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate(OPEN_ALL)
    page.locator("#viewer-wipe").fill("0.5")
    page.get_by_label("minus the full dose").check()  # so are the names in the image at their longest
    page.wait_for_selector("#viewer[data-drawn='4 2 0 32 true']")
    overlaps = page.evaluate("""() => {
        const texts = [...document.querySelectorAll("h1, h2, h3, p, img, table, summary, pre, dl > div, figcaption, " +
            ".courses svg, .screen .name, fieldset > label, fieldset input, fieldset button, fieldset select, nav a")];
        const clip = element => element.closest(".scroll") ?? element;
        const boxes = texts.filter(element => element.checkVisibility()).map(element => [element,
            clip(element).getBoundingClientRect()]).filter(([, box]) => box.width && box.height);
        const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
        return boxes.flatMap(([a, boxA], i) => boxes.slice(i + 1).filter(([b, boxB]) =>
            !a.contains(b) && !b.contains(a) && meet(boxA, boxB))
            .map(([b]) => [a.outerHTML.slice(0, 60), b.outerHTML.slice(0, 60)]));
    }""")
    assert overlaps == []


def test_files_beside_the_page_are_linked(page: Page, page_run: Path) -> None:
    links = page.locator("figcaption a, .caption a").evaluate_all("all => all.map(link => link.getAttribute('href'))")
    assert {"figures/efficiency.pdf", "figures/efficiency.svg", "figures/efficiency.png", "table2.tex"} <= {*links}
    assert [link for link in links if not (page_run / "report" / link).is_file()] == []
