"""What is known of the quality of denoisers, as CSV files and figures."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from data_prep.files import write_atomic
from pipeline.report.plots import _figure as figure_at
from pipeline.report.quality_figures import draw_bias, draw_noise_spectra, draw_sharpness
from pipeline.report.quality_tables import quality_tables, with_scans
from pipeline.report.tables import quality_table


def write_quality(root: Path, judged: Sequence[str], target: Path) -> pd.DataFrame:
    """Write tables and figures of the models ``judged`` in the run folder ``root`` to ``target``; return the first."""
    tables = quality_tables(root, judged)
    quality = with_scans(quality_table(root, judged), tables["quality_datasets"])
    for name, table in {"quality": quality, **tables}.items():
        write_atomic(target / f"{name}.csv", table.to_csv(index=False))
    with figure_at(target / "nps.png", 8.5, 4.2) as figure:
        draw_noise_spectra(figure, tables["nps"])
    for draw, name in ((draw_sharpness, "sharpness"), (draw_bias, "bias")):
        with figure_at(target / f"{name}.png", 8.5, 4.2) as figure:
            draw(figure, quality)
    return quality


def quality_lines(quality: pd.DataFrame) -> str:
    """A few columns for the terminal."""
    columns = {
        "rmse_hu_scans": "RMSE (HU)", "psnr_mean": "PSNR (dB)", "ms_ssim_mean": "MS-SSIM", "noise_sd": "noise SD (HU)",
        "sharpness": "sharpness", "bias_lung": "lung bias (HU)", "bias_soft": "soft bias", "bias_bone": "bone bias",
    }  # fmt: skip
    return quality.set_index("model")[[*columns]].rename(columns=columns).to_string(float_format="{:.4g}".format)
