"""Strip of a scan's contact sheet: the scan's own noise beside what its low dose adds, as images and as spectra."""

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data_prep.lowdose.flags import is_flagged
from data_prep.lowdose.record import NoiseRecord
from data_prep.lowdose.scan_noise import ScanNoise, Sites
from data_prep.overview import DARK, LIGHT, MARGIN, WARNING, WIDTH, font, grey

Planes = NDArray[np.float32]
_CROP, _ZOOM = 72, 4  # pixels of the scan, and of the sheet for each of them
_TILE, _GAP, _CAPTION = _CROP * _ZOOM, 8, 24
_GREY_SDS = 6.0  # width of the display window
_LEFT, _TOP, _RIGHT, _BOTTOM = 770, _CAPTION, 1270, _CAPTION + _TILE - 46  # of the plot
_COLUMNS = (1310, 1460, 1580)  # of the numbers: name, scan's own, added
_REMARK_WIDTH = 52  # characters
_TICKS = 6  # at most, on an axis
_FULL_COLOUR, _ADDED_COLOUR, _GRID = (110, 190, 255), (255, 190, 80), (70, 70, 70)


class Curve(NamedTuple):
    """Noise in the plot; its SD is divided by ``factor``."""

    title: str
    noise: ScanNoise
    factor: float
    colour: tuple[int, int, int]

    @property
    def power(self) -> NDArray[np.float64]:
        """Power in HU^2 mm^2 from the first ring on: trends are taken from blocks, which empties the ring of 0."""
        return np.array(self.noise.spectrum[1:]) / self.factor**2


def noise_strip(record: NoiseRecord, row: Mapping[str, Any]) -> Image.Image:
    """Draw the strip: crops of both kinds of noise in one grey window, their spectra, and the numbers of ``row``.

    The added noise is divided by the factor that the dose asks for, so that both should look alike. Where the dose
    is not known it stands as it is. Where the scan's noise could not be measured, the strip says so.
    """
    full, added = record.noise
    if full is None:
        strip = Image.new("RGB", (WIDTH, 2 * _CAPTION), DARK)
        ImageDraw.Draw(strip).text((6, 14), f"noise: {row['noise_remark']}", WARNING, font(13))
        return strip
    strip, factor = Image.new("RGB", (WIDTH, _CAPTION + _TILE + _GAP), DARK), record.expected_factor or 1.0
    titles = ("the scan's own", f"added / {factor:.3g}" if record.dose else "added (measured, dose unknown)")
    curves = [Curve(titles[0], full, 1.0, _FULL_COLOUR)]
    if added:
        curves.append(Curve(titles[1], added, factor, _ADDED_COLOUR))
    width = _GREY_SDS * max(curve.noise.sd / curve.factor for curve in curves)
    _draw_crops(strip, noise_crops(record), titles, width, _CROP * record.step)
    _draw_plot(ImageDraw.Draw(strip), curves)
    _draw_numbers(ImageDraw.Draw(strip), curves, row)
    return strip


def noise_crops(record: NoiseRecord) -> tuple[Planes, Planes]:
    """Return the scan's own noise in a square of uniform tissue, and there the added noise over the expected factor.

    The own noise is the difference of two slices, scaled to the noise of one; both are in HU.
    """
    assert record.own
    lag = record.own.sites.lag
    slab, lower, top, left = _most_uniform_square(record.own.sites)
    square = np.s_[top : top + _CROP, left : left + _CROP]
    full, low = record.slabs[slab].hu.astype(np.float32), record.added[slab].hu.astype(np.float32)
    difference = (full[lower + lag][square] - full[lower][square]) / math.sqrt(2 * (1 - record.own.pair_correlation))
    return difference, low[lower][square] / np.float32(record.expected_factor or 1.0)


def _most_uniform_square(sites: Sites) -> tuple[int, int, int, int]:
    """Return the number of slab and lower slice, and the first row and column, of the square with the most blocks."""
    step, blocks = sites.blocks.step, (_CROP - sites.blocks.side) // sites.blocks.step + 1
    index = sites.slab, sites.lower, sites.row, sites.column
    count = np.zeros([max(numbers.max() + 1, blocks) for numbers in index], np.int64)
    np.add.at(count, index, 1)
    squares = sliding_window_view(count, (blocks, blocks), (2, 3)).sum((4, 5))
    slab, lower, row, column = np.unravel_index(squares.argmax(), squares.shape)
    return int(slab), int(lower), int(row) * step, int(column) * step


def _draw_crops(strip: Image.Image, crops: Sequence[Planes], titles: Sequence[str], width: float, side: int) -> None:
    """Draw crops in a grey window of ``width`` HU; ``side``: how many of the scan's pixels they are wide and high."""
    canvas = ImageDraw.Draw(strip)
    canvas.text((6, _CAPTION + 90), f"noise,\n{side} x {side}\npixels,\n\u00b1{width / 2:.0f} HU", LIGHT, font(13))
    for number, (crop, title) in enumerate(zip(crops, titles, strict=True)):
        left = MARGIN + number * (_TILE + _GAP)
        canvas.text((left, 5), title, (_FULL_COLOUR, _ADDED_COLOUR)[number], font(13))
        tile = Image.fromarray(grey(crop, (0.0, width)))
        strip.paste(tile.resize((_TILE, _TILE), Image.Resampling.NEAREST), (left, _CAPTION))


def _draw_plot(canvas: ImageDraw.ImageDraw, curves: Sequence[Curve]) -> None:
    """Draw power over frequency; a mark on the axis shows each mean frequency."""
    frequency = np.array(curves[0].noise.frequency[1:])
    limits = float(frequency[-1]), 1.05 * max(float(curve.power.max()) for curve in curves)
    scale = (_RIGHT - _LEFT) / limits[0], (_BOTTOM - _TOP) / limits[1]
    canvas.text((_LEFT, 5), "power (HU^2 mm^2)", LIGHT, font(13))
    canvas.text((_RIGHT, _BOTTOM + 30), "frequency (cycles/mm); marks: mean frequency", LIGHT, font(13), "rt")
    for tick in _ticks(limits[0]):
        x = _LEFT + tick * scale[0]
        canvas.line([(x, _TOP), (x, _BOTTOM)], _GRID)
        canvas.text((x, _BOTTOM + 12), f"{tick:g}", LIGHT, font(12), "mt")
    for tick in _ticks(limits[1]):
        y = _BOTTOM - tick * scale[1]
        canvas.line([(_LEFT, y), (_RIGHT, y)], _GRID)
        canvas.text((_LEFT - 6, y), f"{tick:g}", LIGHT, font(12), "rm")
    for number, curve in enumerate(curves):
        points = np.stack([_LEFT + frequency * scale[0], _BOTTOM - curve.power * scale[1]], 1)
        canvas.line([(float(x), float(y)) for x, y in points], curve.colour, 4 - 2 * number, "curve")
        x, base = _LEFT + curve.noise.centroid * scale[0], _BOTTOM + (9, -9)[number]
        canvas.polygon([(x, _BOTTOM), (x - 4, base), (x + 4, base)], curve.colour)
        canvas.text((_LEFT + 160 + 120 * number, 5), curve.title, curve.colour, font(13))


def _ticks(limit: float) -> list[float]:
    """Return round numbers from 0 to the limit."""
    power = 10.0 ** math.floor(math.log10(limit / _TICKS))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if limit / step <= _TICKS)
    return [number * step for number in range(math.floor(limit / step) + 1)]


def _draw_numbers(canvas: ImageDraw.ImageDraw, curves: Sequence[Curve], row: Mapping[str, Any]) -> None:
    texts: dict[str, Callable[[ScanNoise], str]] = {
        "SD (HU)": lambda noise: f"{noise.sd:.4g}",
        "95 % interval": lambda noise: " to ".join(f"{end:.3g}" for end in noise.interval),
        "mean frequency": lambda noise: f"{noise.centroid:.3f}",
        "correlation of slices": lambda noise: f"{noise.z_correlation[0] if noise.z_correlation else 0:.2f}",
        "blocks": lambda noise: f"{noise.blocks}",
    }
    for x, title, curve in zip(_COLUMNS[1:], ("the scan's own", "added"), curves, strict=False):
        canvas.text((x, 5), title, curve.colour, font(13))
    for number, (name, text) in enumerate(texts.items()):
        y = _TOP + 20 * number
        canvas.text((_COLUMNS[0], y), name, LIGHT, font(13))
        for x, curve in zip(_COLUMNS[1:], curves, strict=False):
            canvas.text((x, y), text(curve.noise), curve.colour, font(13))
    ratio = "unknown" if row["noise_ratio"] is None else f"{row['noise_ratio']:.3f}"
    remarks = [f"added / expected: {ratio}", *filter(None, row["noise_remark"].split("; "))]
    lines = [line for remark in remarks for line in wrap(remark, _REMARK_WIDTH)]
    canvas.text((_COLUMNS[0], _TOP + 130), "\n".join(lines), WARNING if is_flagged(row) else LIGHT, font(13), spacing=7)
