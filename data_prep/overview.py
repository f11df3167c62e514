"""Contact sheets of scans and of whole data sets, and the noise of a scan, for a person to look at."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont

from data_prep.files import replacing
from data_prep.lowdose.flags import is_flagged
from data_prep.paths import contact_path
from data_prep.volume import LUNG_WINDOW

Hu = NDArray[np.int16]
WINDOWS = {"lung": LUNG_WINDOW, "mediastinum": (40.0, 400.0)}
"""Display windows by the tissue that they show: centre and width, HU."""
_SHOWN = 8  # slices on a scan's sheet
_TILE = 160  # pixels
_HEAD, MARGIN = 44, 96
WIDTH = MARGIN + (_SHOWN + 2) * _TILE
"""Of a scan's sheet, pixels."""
_PAGE_SCANS = (4, 24)  # across and down
_THUMB, _CAPTION = 112, 18
DARK, LIGHT, WARNING = (20, 20, 20), (235, 235, 235), (255, 150, 60)


Further = tuple[float | None, "Overview", Image.Image]
"""A further low dose of a scan: fraction of the full dose, its overview, the strip of its noise."""


class Overview:
    """Collects from a scan's chunks what its overview shows: a few slices, two sections, squared differences."""

    def __init__(self, slices: int) -> None:
        self.seen = 0
        self._shown = {int(z) for z in np.linspace(0, slices - 1, _SHOWN + 2).round()[1:-1]}
        self._slices: dict[int, tuple[Hu, Hu]] = {}
        self._sections: list[tuple[Hu, Hu]] = []
        self._squares = 0.0

    def add(self, full: Hu, low: Hu) -> None:
        """Take the next slices of full and low dose, both (n, rows, columns)."""
        for z in sorted(self._shown & set(range(self.seen, self.seen + len(full)))):
            self._slices[z] = full[z - self.seen].copy(), low[z - self.seen].copy()
        middle = full.shape[1] // 2
        self._sections.append((full[:, middle].copy(), full[:, :, middle].copy()))
        self._squares += sum(float(((a.astype(np.float64) - b) ** 2).mean()) for a, b in zip(full, low, strict=True))
        self.seen += len(full)

    def rmse(self) -> float:
        """Return the root mean squared difference of low and full dose, HU."""
        return round(float(np.sqrt(self._squares / self.seen)), 4)

    def draw(self, path: Path, row: Mapping[str, Any], noise: Image.Image, further: Sequence[Further] = ()) -> None:
        """Write the contact sheet: slices from feet to head in two windows and both doses, two sections, ``noise``.

        ``further``: low doses of the same scan, whose slices and noise follow below.
        """
        height = _HEAD + 4 * _TILE + noise.height
        sheet = Image.new("RGB", (WIDTH, height + sum(2 * _TILE + strip.height for _, _, strip in further)), DARK)
        sheet.paste(noise, (0, _HEAD + 4 * _TILE))
        canvas = ImageDraw.Draw(sheet)
        for line, text in enumerate(_titles(row)):
            canvas.text((8, 4 + 19 * line), text, LIGHT, font(15))
        titles = ("full dose", f"dose {row['dose']:g}" if further else "low dose")
        for number, (window, dose) in enumerate(product(WINDOWS, (0, 1))):
            self._draw_slices(sheet, _HEAD + number * _TILE, f"{window}\n{titles[dose]}", window, dose)
        for number, section in enumerate(self._planes(float(row["spacing_z_mm"]) / float(row["spacing_xy_mm"]))):
            sheet.paste(section, (MARGIN + _SHOWN * _TILE, _HEAD + 2 * number * _TILE))
        for fraction, overview, strip in further:
            for number, window in enumerate(WINDOWS):
                overview._draw_slices(sheet, height + number * _TILE, f"{window}\ndose {fraction:g}", window, 1)
            sheet.paste(strip, (0, height + 2 * _TILE))
            height += 2 * _TILE + strip.height
        with replacing(path) as temporary:
            sheet.save(temporary, "PNG")

    def _draw_slices(self, sheet: Image.Image, top: int, title: str, window: str, dose: int) -> None:
        canvas = ImageDraw.Draw(sheet)
        canvas.text((6, top + 60), title, LIGHT, font(13))
        for column, z in enumerate(sorted(self._shown)):
            left = MARGIN + column * _TILE
            sheet.paste(_tile(self._slices[z][dose], WINDOWS[window]), (left, top))
            canvas.text((left + 4, top + 3), f"{z}", LIGHT, font(12))

    def _planes(self, stretch: float) -> list[Image.Image]:
        """Return the coronal and the sagittal section of the full dose, head up, in the patient's proportions."""
        planes = (np.concatenate([pair[i] for pair in self._sections])[::-1] for i in (0, 1))
        return [_section(plane, stretch) for plane in planes]


def _titles(row: Mapping[str, Any]) -> tuple[str, str]:
    def number(name: str, unit: str, quantity: str) -> str:
        return f"{quantity} unknown" if row[name] is None else f"{row[name]:.4g} {unit}"

    full, added = number("noise_full_hu", "HU full dose", "full dose"), number("noise_added_hu", "HU added", "added")
    grid = f"{row['slices']} slices of {row['spacing_z_mm']:.3g} mm, pixels {row['spacing_xy_mm']:.3g} mm"
    acquisition = f"kernel {row['kernel'] or 'unknown'}, {number('kvp', 'kV', 'kV')}, {number('mas', 'mAs', 'mAs')}"
    return f"{row['dataset']}  {row['scan']}", f"{grid}   {acquisition}   noise {full}, {added} ({row['low_dose']})"


def grey(hu: Hu | NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the brightness of a pixel in a display window: centre and width, HU."""
    centre, width = window
    grey: NDArray[np.uint8] = (np.clip((hu - (centre - width / 2)) / width, 0, 1) * 255).astype(np.uint8)
    return grey


def _tile(hu: Hu, window: tuple[float, float]) -> Image.Image:
    return Image.fromarray(grey(hu, window)).resize((_TILE, _TILE), Image.Resampling.BOX)


def _section(plane: Hu, stretch: float) -> Image.Image:
    """Return the grey section, fitted into two tiles across and two down."""
    height, width = plane.shape[0] * stretch, plane.shape[1]
    scale = 2 * _TILE / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(grey(plane, WINDOWS["mediastinum"])).resize(size, Image.Resampling.BOX)


def font(size: int) -> Any:
    """Return the font of contact sheets in a size."""
    return ImageFont.load_default(size)


def draw_pages(data: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the contact sheets of a data set from those of its scans: ``contact/<dataset>-1.png`` and so on.

    ``rows``: manifest rows of its kept scans.
    """
    across, down = _PAGE_SCANS
    page_scans = across * down
    for number, start in enumerate(range(0, len(rows), page_scans), start=1):
        path = data / "contact" / f"{rows[0]['dataset']}-{number}.png"
        with replacing(path) as temporary:
            _page(data, rows[start : start + page_scans]).save(temporary, "PNG")


def _page(data: Path, rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    across, height = _PAGE_SCANS[0], _THUMB + _CAPTION
    page = Image.new("RGB", (across * (3 * _THUMB + 8), -(-len(rows) // across) * height), DARK)
    canvas = ImageDraw.Draw(page)
    for number, row in enumerate(rows):
        left, top = number % across * (3 * _THUMB + 8), number // across * height
        page.paste(_thumbnails(contact_path(data, row["dataset"], row["scan"])), (left, top))
        noise = f", {row['noise_added_hu']:.3g} HU" if row["noise_added_hu"] else ""
        colour = WARNING if is_flagged(row) else LIGHT
        canvas.text((left + 2, top + _THUMB + 1), f"{row['scan'][-34:]}, {row['slices']}{noise}", colour, font(12))
    return page


def _thumbnails(path: Path) -> Image.Image:
    """Cut from a scan's sheet the middle slice at full and at low dose, and the coronal section."""
    strip = Image.new("RGB", (3 * _THUMB, _THUMB), DARK)
    middle, section = MARGIN + _SHOWN // 2 * _TILE, MARGIN + _SHOWN * _TILE
    tops = (_HEAD + 2 * _TILE, _HEAD + 3 * _TILE)
    boxes = [(middle, top, middle + _TILE, top + _TILE) for top in tops]
    boxes.append((section, _HEAD, section + 2 * _TILE, _HEAD + 2 * _TILE))
    with Image.open(path) as sheet:
        for number, box in enumerate(boxes):
            part = sheet.crop(box)
            part = part.crop(ImageChops.difference(part, Image.new("RGB", part.size, DARK)).getbbox())
            part.thumbnail((_THUMB, _THUMB), Image.Resampling.BOX)
            strip.paste(part, (number * _THUMB, 0))
    return strip
