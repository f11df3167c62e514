"""Tables of how good denoisers are: by scan, by data set, against each other, and their noise spectra."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.quality.statistics import LEAST_PATIENTS, holm, interval, paired_test

SCAN_METRICS = (
    "rmse_hu", "mse", "psnr", "ssim", "ms_ssim", "ssim_3d", "ms_ssim_3d",
    "noise_sd", "nps_mean_frequency", "sharpness", "bias_lung", "bias_soft", "bias_bone",
)  # fmt: skip
TESTED = ("rmse_hu", "ssim", "ms_ssim", "sharpness")
ALL = "all"
_PLACE = ["part", "dataset", "scan"]
_SIGNIFICANT = 0.05


def scans_table(root: Path, judged: Sequence[str]) -> pd.DataFrame:
    """A row a model, part of the split and scan; ``patient`` by the manifest, and ``SCAN_METRICS``.

    ``rmse_hu`` is over all the scan's voxels, ``psnr`` that of its mean squared error; the other 2D metrics are
    means over slices.
    """
    manifest = pd.read_csv(root / "data" / "manifest.csv", dtype=str).drop_duplicates(["dataset", "scan"])
    patients = manifest[["dataset", "scan", "subject"]].rename(columns={"subject": "patient"})
    table = pd.concat([_scans_of(root, model) for model in judged], ignore_index=True)
    table = table.merge(patients, on=["dataset", "scan"], how="left", validate="many_to_one")
    return table[["model", *_PLACE, "patient", "slices", "noise_blocks", *SCAN_METRICS]]


def _scans_of(root: Path, model: str) -> pd.DataFrame:
    slices, scans = (read_judgement(root, model, kind) for kind in (".json", ".scans.json"))
    means = slices.assign(rmse_hu=slices["rmse_hu"] ** 2).groupby(_PLACE)[["rmse_hu", "mse", "ssim", "ms_ssim"]].mean()
    means["rmse_hu"] **= 0.5
    means["psnr"] = -10 * np.log10(means["mse"])
    numbers = scans[[name for name in SCAN_METRICS if name in scans]].astype(float)  # None, where there is no tissue
    return scans.assign(model=model, **numbers).join(means, on=_PLACE)


def read_judgement(root: Path, model: str, kind: str) -> pd.DataFrame:
    """Rows by slice (``.json``) or by scan (``.scans.json``) of a judged model."""
    return pd.DataFrame(json.loads((root / "evaluation" / f"{model}{kind}").read_text()))


def groups_table(scans: pd.DataFrame) -> pd.DataFrame:
    """A row a model, part and data set, and ``all`` of them: mean, SD and 95 % interval of each metric over scans."""
    everything = pd.concat([scans.assign(dataset=ALL), scans])
    groups = everything.groupby(["model", "part", "dataset"], sort=False)
    rows = [
        {"model": model, "part": part, "dataset": dataset, **_summed_up(group)}
        for (model, part, dataset), group in groups
    ]
    return pd.DataFrame(rows)


def _summed_up(group: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {"scans": len(group), "patients": group["patient"].nunique()}
    for metric in SCAN_METRICS:
        low, high = interval(group[metric], group["patient"])
        row |= {f"{metric}_mean": group[metric].mean(), f"{metric}_sd": group[metric].std(ddof=1),
                f"{metric}_low": low, f"{metric}_high": high}  # fmt: skip
    return row


def tests_table(scans: pd.DataFrame) -> pd.DataFrame:
    """A row a pair of models and metric, on the part ``test``, paired by patient and corrected after Holm by metric.

    ``difference``: mean over patients of the first minus the second.
    """
    tested = scans[scans["part"] == "test"]
    means = tested.groupby(["patient", "model"])[list(TESTED)].mean()
    models = list(dict.fromkeys(tested["model"]))
    tables = [_tests_of(means[metric].unstack("model"), metric, models) for metric in TESTED]
    return pd.concat(tables, ignore_index=True)


def _tests_of(values: pd.DataFrame, metric: str, models: Sequence[str]) -> pd.DataFrame:
    rows: list[Mapping[str, Any]] = []
    for first, second in combinations(models, 2):
        differences = (values[first] - values[second]).dropna().to_numpy(np.float64)
        rows.append({
            "metric": metric, "first": first, "second": second, "patients": len(differences),
            "difference": differences.mean() if len(differences) else np.nan, "p": paired_test(differences),
        })  # fmt: skip
    table = pd.DataFrame(rows, columns=["metric", "first", "second", "patients", "difference", "p"])
    table["p_holm"] = holm(table["p"].to_numpy(np.float64))
    words = np.where(table["p_holm"] < _SIGNIFICANT, "differ", "no difference shown")
    table["verdict"] = np.where(table["p"].isna(), f"not testable: fewer than {LEAST_PATIENTS} patients", words)
    return table


def nps_table(root: Path, judged: Sequence[str]) -> pd.DataFrame:
    """Noise power spectra of the part ``test``: a row a model and frequency (cycles/mm), ``nps`` in HU^2 mm^2.

    Means over scans, weighted by their uniform blocks; ``blocks`` says how many there were.
    """
    tables = [_nps_of(read_judgement(root, model, ".scans.json")).assign(model=model) for model in judged]
    return pd.concat(tables, ignore_index=True)[["model", "frequency", "nps", "blocks"]]


def _nps_of(scans: pd.DataFrame) -> pd.DataFrame:
    rows = [
        {"frequency": round(frequency, 6), "power": nps * scan["noise_blocks"], "blocks": scan["noise_blocks"]}
        for scan in scans[scans["part"] == "test"].to_dict("records")
        for frequency, nps in zip(*scan["nps"], strict=True)
    ]
    table = pd.DataFrame(rows, columns=["frequency", "power", "blocks"]).groupby("frequency").sum().reset_index()
    return table.assign(nps=table["power"] / table["blocks"])
