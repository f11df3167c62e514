"""A report whose page is shown in tests, and what the page's viewer shows of it."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from playwright.sync_api import Page

from pipeline.report.write import write_report
from pipeline.settings.cells import cells_of
from tests.pipeline.runs import Hu, fill, settings_of
from tests.scans import chest

HOSTILE = '<img src=x onerror=alert(1)></script><script>alert(2)</script>"&'
SIDE, SLICES = 64, 9
WINDOWS = {"lung": (-600, 1500), "mediastinum": (40, 400), "bone": (400, 1800)}
LOW, FLAT, DEEP = "low-dose", "2d", "3d-s16-r1"


def write_hostile_report(root: Path) -> None:
    """A small study with hostile texts, one failed training, and pixels at both ends of int16."""
    root.mkdir()
    cells = cells_of(settings_of(study={"slices": [16], "ranks": [1, 2, 4, 16]}))
    ids = [cell.id for cell in cells]
    full = chest(SLICES, SIDE)
    full[:, 0, :4] = -32768, 32767, -32768, 32767
    fill(root, cells, ids[:-1], HOSTILE, full, lines=40)
    states = {**dict.fromkeys(ids, ("done", "")), ids[-1]: ("failed", HOSTILE)}
    accounting = pd.DataFrame({"stage": [HOSTILE, "study"], "item": ["", DEEP], "gpu_hours": [10.0, 9.0]})
    write_report(root, settings_of(budget={"gpu_hour_price": 1.5}), cells, states, [LOW, *ids[:-1]], accounting)


def stack(root: Path, model: str) -> Hu:
    """HU of a model's example, or of the full dose."""
    with np.load(root / "evaluation" / f"{LOW if model == 'full' else model}.npz") as example:
        image: Hu = example["full_dose" if model == "full" else "image"]
    return image


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
