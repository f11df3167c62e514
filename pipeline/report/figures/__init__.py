"""The figures of the report, each in several formats."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from pipeline.report.figures.doses import draw_doses
from pipeline.report.figures.fig4 import draw_accuracy, draw_time
from pipeline.report.figures.losses import draw_by_slices, draw_by_transfer
from pipeline.report.figures.networks import draw_networks
from pipeline.report.figures.pictures import draw_differences, draw_slices
from pipeline.report.figures.quality import draw_bias, draw_noise_spectra, draw_sharpness
from pipeline.report.figures.scaling import draw_attribution, draw_projection, draw_speed_up
from pipeline.report.figures.style import figure_path, new_figure, save, styled
from pipeline.report.results import NothingToDraw, Results
from pipeline.settings.names import FORMATS, FigureFormat

PIXELS = 128  # of the page, an inch of a figure: a little larger than in print
Section = Literal["slices", "quality", "doses", "networks", "speedup", "scaling", "courses", "search"]
"""Parts of the page with figures, in its order, and the page of a search: each shows all figures of its section."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report. ``has_images``: the page shows its PNG, which is smaller than the SVG of an image."""

    draw: Callable[[Figure, Results], None]
    section: Section
    caption: str
    has_images: bool = False

    @property
    def shown(self) -> FigureFormat:
        """The format that the page shows."""
        return "png" if self.has_images else "svg"


@dataclass(frozen=True)
class Drawn:
    """A figure's files, ``path`` without ending; ``missing`` says why it could not be drawn, or is empty.

    ``formats``: of its files. ``width``: on the page, in its pixels; letters have the same size in all figures.
    """

    figure: ReportFigure
    path: Path
    formats: Sequence[FigureFormat] = ()
    width: int = 0
    missing: str = ""


FIGURES = {
    "fig9-slices": ReportFigure(
        draw_slices, "slices", "One held-out slice at low dose, denoised, and at full dose, in the lung window.",
        has_images=True,
    ),
    "fig8-differences": ReportFigure(
        draw_differences, "slices", "What differs from the full dose in the same slice, and the RMSE over its pixels.",
        has_images=True,
    ),
    "sharpness": ReportFigure(
        draw_sharpness, "quality",
        "Edges kept against noise left; the full dose is at 0 HU and 1. A blur moves down and left. Marks: means over "
        "the held-out scans, without intervals. Where there are more than 24 models, the baselines and the best are "
        "shown, 24 in all.",
    ),
    "noise-spectra": ReportFigure(
        draw_noise_spectra, "quality",
        "Noise power spectra in uniform soft tissue of the held-out scans. Lines: means over scans, weighted by their "
        "uniform blocks, without intervals.",
    ),
    "bias": ReportFigure(
        draw_bias, "quality",
        "Deviation from the full dose by tissue. Marks: means over the held-out scans, without intervals.",
    ),
    "dose-curves": ReportFigure(
        draw_doses, "doses",
        "Error, noise, sharpness and bias against the dose. Marks: means over the held-out slices (error) or scans, "
        "without intervals; hollow where a network was not trained on the dose. Black and dashed: the input; grey "
        "and dotted: classical denoisers.",
    ),
    "networks": ReportFigure(
        draw_networks, "networks",
        "Error on the held-out slices against what a network costs. Marks: means over seeds, by the id of the first; "
        "bars: 95 % intervals over seeds, missing with one. Filled, and joined by the line: nothing has both less "
        "error and fewer hours. Grey and broken: classical denoisers.",
    ),
    "efficiency": ReportFigure(
        draw_speed_up, "speedup",
        "Speed-up and efficiency of training steps against the fewest undisturbed ranks that are alike: the baseline, "
        "at 1 and 100 %. Bars and bands: 95 % intervals over seeds or, of one seed, its epochs, as interval_over in "
        "the table says. Hollow: trainings that other work disturbed.",
    ),
    "fig4-time": ReportFigure(
        draw_time, "scaling", "Time of training steps against ranks. Dots: each training; line: mean of the "
        "seeds; dashed: n times shorter on n times the ranks, or in weak scaling, where each rank takes as many "
        "steps, as long.",
    ),
    "fig4-accuracy": ReportFigure(
        draw_accuracy, "scaling",
        "MS-SSIM of the held-out slices of each data set against ranks. Line: mean over slices and seeds; band and "
        "bars: one SD to either side, which is the spread of slices and no uncertainty of the mean.",
    ),
    "attribution": ReportFigure(
        draw_attribution, "scaling",
        "What took the ranks' time that was not useful, by the control arms. Not measured: a control arm is missing, "
        "and the bar shorter than what was lost. The table has the parts' 95 % intervals.",
    ),
    "projection": ReportFigure(
        draw_projection, "scaling",
        "Speed-up over the fewest measured ranks that the fitted model expects of more. Bands: 95 % over what was "
        "measured, the choice of model and assumed links. Dashed: a scenario, beyond 8 times the largest measured "
        "count.",
    ),
    "fig6-loss-slices": ReportFigure(
        draw_by_slices, "courses",
        "Course of training by slice count, on the fewest ranks. Line: mean of the seeds; band: from the least to the "
        "largest of them. The loss is a running mean over a fiftieth of the training.",
    ),
    "fig7-loss-transfer": ReportFigure(
        draw_by_transfer, "courses",
        "Course of training by transfer from 2D, on the fewest ranks. Line: mean of the seeds; band: from the least to "
        "the largest of them. The loss is a running mean over a fiftieth of the training.",
    ),
}  # fmt: skip
"""All figures by the names of their files, in the order of the page. The paper's figures have its numbers."""

QUALITY = {name: figure for name, figure in FIGURES.items() if figure.section == "quality"}
"""Figures that need no training: they are also drawn where denoisers are compared without a study."""


def draw_all(
    results: Results,
    folder: Path,
    figures: Mapping[str, ReportFigure] = FIGURES,
    formats: Sequence[FigureFormat] = FORMATS,
) -> Iterator[Drawn]:
    """Draw the figures into ``folder`` and yield each; files of an earlier report that are not drawn are removed.

    ``formats``: of each figure's files, beside the one that the page shows.
    """
    for name, figure in figures.items():
        drawn = _draw(figure, results, folder / name, [x for x in FORMATS if x in (figure.shown, *formats)])
        for absent in FORMATS:
            if absent not in drawn.formats:
                figure_path(drawn.path, absent).unlink(missing_ok=True)
        yield drawn


def _draw(figure: ReportFigure, results: Results, path: Path, formats: Sequence[FigureFormat]) -> Drawn:
    with styled():
        canvas = new_figure()
        try:
            figure.draw(canvas, results)
        except NothingToDraw as error:
            return Drawn(figure, path, missing=str(error))
        save(canvas, path, formats)
    return Drawn(figure, path, formats, round(PIXELS * canvas.get_figwidth()))
