"""The figures of the report, each as PNG and SVG."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.report.figures.fig4 import draw_accuracy, draw_time
from pipeline.report.figures.losses import draw_by_slices, draw_by_transfer
from pipeline.report.figures.pictures import draw_differences, draw_slices
from pipeline.report.figures.quality import draw_bias, draw_noise_spectra, draw_sharpness
from pipeline.report.figures.scaling import draw_attribution, draw_projection, draw_speed_up
from pipeline.report.figures.style import new_figure, save, styled
from pipeline.report.results import NothingToDraw, Results

ENDINGS = (".png", ".svg")


@dataclass(frozen=True)
class Drawn:
    """A figure: ``path`` without ending, its caption, and why it is ``missing``, if it is."""

    path: Path
    caption: str
    missing: str = ""


FIGURES: dict[str, tuple[Callable[[Figure, Results], None], str]] = {
    "fig9-slices": (draw_slices, "One held-out slice at low dose, denoised, and at full dose, in the lung window."),
    "fig8-differences": (draw_differences, "What differs from the full dose in the same slice."),
    "fig4-time": (draw_time, "Time of training against ranks. Dots: each training; lines: mean of the seeds."),
    "fig4-accuracy": (
        draw_accuracy,
        "MS-SSIM of the held-out slices of each data set against ranks. Line and band: mean and SD over slices.",
    ),
    "efficiency": (draw_speed_up, "Speed-up and efficiency of training steps against the fewest ranks that are alike."),
    "attribution": (draw_attribution, "What took the ranks' time that was not useful, by the control arms."),
    "projection": (draw_projection, "Speed-up that the fitted laws expect of more ranks than were measured."),
    "fig6-loss-slices": (
        draw_by_slices,
        "Course of training by slice count, on the fewest ranks. Line and band: mean and range of the seeds.",
    ),
    "fig7-loss-transfer": (
        draw_by_transfer,
        "Course of training by transfer from 2D, on the fewest ranks. Line and band: mean and range of the seeds.",
    ),
    "sharpness": (
        draw_sharpness,
        "Edges kept against noise left; the full dose is at 0 HU and 1. A blur moves down and left. Of more than 24 "
        "models the best.",
    ),
    "noise-spectra": (draw_noise_spectra, "Noise power spectra in uniform soft tissue of the held-out slices."),
    "bias": (draw_bias, "Mean deviation from the full dose by tissue."),
}  # fmt: skip
"""How each is drawn, and its caption. The paper's numbers are in the names of those that it has too."""

QUALITY = ("sharpness", "noise-spectra", "bias")


def draw_all(results: Results, folder: Path, names: Iterable[str] = FIGURES) -> Iterator[Drawn]:
    """Draw what can be drawn into ``folder``; what an earlier report drew and this one cannot is removed."""
    for name in names:
        draw, caption = FIGURES[name]
        yield _draw(draw, results, Drawn(folder / name, caption))


def _draw(draw: Callable[[Figure, Results], None], results: Results, drawn: Drawn) -> Drawn:
    with styled():
        figure = new_figure()
        try:
            draw(figure, results)
        except NothingToDraw as why:
            for ending in ENDINGS:
                drawn.path.with_name(drawn.path.name + ending).unlink(missing_ok=True)
            return Drawn(drawn.path, drawn.caption, str(why))
        save(figure, drawn.path)
    return drawn
