"""Table of the measures of image quality, which judging, the report and the model card read.

To add a measure, write its function in a module of this folder and its record here: in ``SLICE_MEASURES``,
``SLAB_MEASURES`` or ``SCAN_MEASURES``. Runs that were judged before have no number of it; raise the ``version`` of the
stage ``evaluate`` if they shall be judged again.

No torch is imported: a report starts seconds earlier without. Functions of tensors are imported where a scan is judged.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from pipeline.intensity import HU_HIGH, HU_LOW

if TYPE_CHECKING:
    from pipeline.quality.scan import JudgedScan

ScanTable = Literal["page", "terminal", "tests"]
"""Tables that show measures of slices and of scans: the page's table of models, the lines that ``quarterdose evaluate``
prints, and the tests of models against each other. The CSV files of quality have all measures."""

Table = ScanTable | Literal["card", "summary", "paper"]
"""Also tables that show measures of slices only: the model card; ``summary.txt``; and ``paper``: Table 2 and the
variances, for measures that the paper gives too."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure of quality. ``name``: its column in CSV and JSON; ``title``: its name for readers, with the unit.

    ``digits``: precision and type of its format, as in ``4f``; ``exponent``: readers see it in units of ten to this.
    ``best``: the number of the full dose itself, to which closer is better; None if there is no such number.
    ``shown``: the tables that show it. ``short``: title for the terminal, if not ``title``.
    """

    name: str
    title: str
    best: float | None
    shown: frozenset[Table]
    digits: str
    short: str = ""
    exponent: int = 0

    def text(self, value: float) -> str:
        """Write a value as readers see it under ``title``."""
        return f"{value / 10**self.exponent:z.{self.digits}}"


@dataclass(frozen=True, kw_only=True)
class SliceMeasure(Measure):
    """Measure of a slice: ``compute`` turns (image, full dose) in HU into a number a slice, or several.

    ``compute``: names a module of this folder and its function. ``convert``: turns what it computed of a slice into
    the measure. The same measure of a scan converts the mean over slices: so RMSE is the root of the mean over all
    voxels.
    """

    compute: str
    convert: Callable[[Any], float] = float


@dataclass(frozen=True, kw_only=True)
class SlabMeasure(Measure):
    """Measure of a scan: the mean of ``compute`` over slabs of (image, full dose), which need less memory.

    ``compute`` and ``convert``: as those of a :class:`SliceMeasure`.
    """

    shown: frozenset[ScanTable]
    compute: str
    convert: Callable[[Any], float] = float


@dataclass(frozen=True, kw_only=True)
class ScanMeasure(Measure):
    """Measure of a scan; None where the scan lacks what it measures: edges, or a tissue."""

    shown: frozenset[ScanTable]
    compute: "Callable[[JudgedScan], float | None]"


def rmse_hu(squared_error: float) -> float:
    """Convert a mean squared error to its root in HU."""
    return math.sqrt(squared_error * (HU_HIGH - HU_LOW) ** 2)


def psnr(squared_error: float) -> float:
    """Convert a mean squared error to the peak signal-to-noise ratio in dB; infinite without any error."""
    return -10 * math.log10(squared_error) if squared_error else math.inf


def _sharpness(scan: "JudgedScan") -> float | None:
    from pipeline.quality.edges import sharpness

    return sharpness(scan.image, scan.full, scan.spacing)


RANKED_BY = "rmse_hu"
"""The measure of slices by which models are ranked; it comes first in tables of scans."""

SLICE_MEASURES = (
    SliceMeasure(
        name="mse", title="MSE (10⁻⁴)", best=0, digits="3f", exponent=-4, compute="similarity:squared_errors",
        shown=frozenset({"page", "paper"}),
    ),
    SliceMeasure(
        name="rmse_hu", title="RMSE (HU)", best=0, digits="2f", compute="similarity:squared_errors", convert=rmse_hu,
        shown=frozenset({"page", "card", "summary", "terminal", "tests"}),
    ),
    SliceMeasure(
        name="psnr", title="PSNR (dB)", best=float("inf"), digits="2f", compute="similarity:squared_errors",
        convert=psnr, shown=frozenset({"page", "card", "summary", "terminal"}),
    ),
    SliceMeasure(
        name="ssim", title="SSIM", best=1, digits="4f", compute="similarity:by_slice", convert=itemgetter(0),
        shown=frozenset({"page", "card", "summary", "tests"}),
    ),
    SliceMeasure(
        name="ms_ssim", title="MS-SSIM", best=1, digits="4f", compute="similarity:by_slice", convert=itemgetter(1),
        shown=frozenset({"page", "card", "summary", "terminal", "tests", "paper"}),
    ),
)  # fmt: skip
SLAB_MEASURES = (
    SlabMeasure(
        name="ssim_3d", title="3D SSIM", best=1, digits="4f", compute="similarity:in_3d", convert=itemgetter(0),
        shown=frozenset(),
    ),
    SlabMeasure(
        name="ms_ssim_3d", title="3D MS-SSIM", best=1, digits="4f", compute="similarity:in_3d", convert=itemgetter(1),
        shown=frozenset(),
    ),
)  # fmt: skip
SCAN_MEASURES = (
    ScanMeasure(
        name="noise_sd", title="noise SD (HU)", best=0, digits="2f", compute=lambda scan: scan.noise.sd,
        shown=frozenset({"page", "terminal"}),
    ),
    ScanMeasure(
        name="nps_mean_frequency", title="mean frequency of noise (cycles/mm)", best=None, digits="3f",
        compute=lambda scan: scan.noise.mean_frequency, shown=frozenset(),
    ),
    ScanMeasure(
        name="sharpness", title="sharpness", best=1, digits="3f", shown=frozenset({"page", "terminal", "tests"}),
        compute=_sharpness,
    ),
    ScanMeasure(
        name="bias_lung", title="lung bias (HU)", best=0, digits="2f", compute=lambda scan: scan.bias["lung"],
        shown=frozenset({"page", "terminal"}),
    ),
    ScanMeasure(
        name="bias_soft", title="soft tissue bias (HU)", best=0, digits="2f", compute=lambda scan: scan.bias["soft"],
        shown=frozenset({"page", "terminal"}), short="soft bias",
    ),
    ScanMeasure(
        name="bias_bone", title="bone and contrast bias (HU)", best=0, digits="2f",
        compute=lambda scan: scan.bias["bone"], shown=frozenset({"page", "terminal"}), short="bone/contrast bias",
    ),
)  # fmt: skip

MEASURES: tuple[Measure, ...] = tuple(
    sorted((*SLICE_MEASURES, *SLAB_MEASURES, *SCAN_MEASURES), key=lambda measure: measure.name != RANKED_BY)
)
"""All measures; the first is the one by which models are ranked."""


def names(measures: Iterable[Measure]) -> list[str]:
    """List the names of measures."""
    return [measure.name for measure in measures]


def shown_in(table: Table) -> list[Measure]:
    """List the measures that a table shows."""
    return [measure for measure in MEASURES if table in measure.shown]


def slice_measures(table: Table) -> list[SliceMeasure]:
    """List the measures of slices that a table shows; they have a mean and an SD over slices."""
    return [measure for measure in shown_in(table) if isinstance(measure, SliceMeasure)]
