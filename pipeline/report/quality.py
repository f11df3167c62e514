"""What is known of the quality of denoisers, as CSV files and figures."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from data_prep.files import write_atomic
from pipeline.report.figures import QUALITY, draw_all
from pipeline.report.quality_tables import quality_tables
from pipeline.report.results import Results
from pipeline.report.tables import judged_table


def write_quality(root: Path, judged: Sequence[str], target: Path) -> pd.DataFrame:
    """Write tables and figures of the models ``judged`` in the run folder ``root`` to ``target``; return the first."""
    slices = judged_table(root, judged)
    tables = quality_tables(root, judged, slices)
    for name, table in tables.items():
        write_atomic(target / f"{name}.csv", table.to_csv(index=False))
    list(draw_all(Results(tables, pd.DataFrame(), slices, None), target, QUALITY))
    return tables["quality"]


def quality_lines(quality: pd.DataFrame) -> str:
    """A few columns for the terminal."""
    columns = {
        "rmse_hu_scans": "RMSE (HU)", "psnr_mean": "PSNR (dB)", "ms_ssim_mean": "MS-SSIM", "noise_sd": "noise SD (HU)",
        "sharpness": "sharpness", "bias_lung": "lung bias (HU)", "bias_soft": "soft bias",
        "bias_bone": "bone/contrast bias",
    }  # fmt: skip
    return quality.set_index("model")[[*columns]].rename(columns=columns).to_string(float_format="{:.4g}".format)
