"""Tables of how good denoisers are: by scan, by data set, against each other, and their noise spectra."""

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.quality.statistics import LEAST_PATIENTS, holm, interval, paired_test
from pipeline.report.tables import quality_table

SCAN_METRICS = (
    "rmse_hu", "mse", "psnr", "ssim", "ms_ssim", "ssim_3d", "ms_ssim_3d",
    "noise_sd", "nps_mean_frequency", "sharpness", "bias_lung", "bias_soft", "bias_bone",
)  # fmt: skip
TESTED = ("rmse_hu", "ssim", "ms_ssim", "sharpness")
ALL = "all"
_SIGNIFICANT = 0.05


def quality_tables(root: Path, judged: Sequence[str], slices: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All of them, by the names of their CSV files, of the models ``judged`` in the run folder ``root``.

    ``slices``: a row a judged slice. Without any model the first table is empty, and there is no other.
    """
    quality = quality_table(slices)
    if not judged:
        return {"quality": quality}
    found = {model: json.loads((root / "evaluation" / f"{model}.scans.json").read_text()) for model in judged}
    scans = scans_table(found, pd.read_csv(root / "data" / "manifest.csv", dtype=str))
    datasets = datasets_table(scans)
    return {
        "quality": with_scans(quality, datasets), "quality_scans": scans, "quality_datasets": datasets,
        "quality_tests": tests_table(scans), "nps": nps_table(found),
    }  # fmt: skip


def with_scans(quality: pd.DataFrame, datasets: pd.DataFrame) -> pd.DataFrame:
    """The table of networks with what is known of the held-out scans.

    ``patients``; ``rmse_hu_low`` and ``_high``, the 95 % interval of the scans' mean RMSE; and means over scans.
    """
    rows = datasets[(datasets["part"] == "test") & (datasets["dataset"] == ALL)].set_index("model")
    columns = {"patients": "patients", "rmse_hu_scans": "rmse_hu_mean", "rmse_hu_scans_sd": "rmse_hu_sd",
               "rmse_hu_low": "rmse_hu_low", "rmse_hu_high": "rmse_hu_high",
               **{metric: f"{metric}_mean" for metric in SCAN_METRICS[5:]}}  # fmt: skip
    return quality.join(pd.DataFrame({new: rows[old] for new, old in columns.items()}), on="model")


def scans_table(found: Mapping[str, Sequence[Mapping[str, Any]]], manifest: pd.DataFrame) -> pd.DataFrame:
    """A row a model, part of the split and scan; ``patient`` by the manifest, and ``SCAN_METRICS``.

    ``rmse_hu``, ``mse`` and ``psnr`` are over all the scan's voxels, ``ssim`` and ``ms_ssim`` means over slices.
    """
    columns = ["model", "part", "dataset", "scan", "slices", "noise_blocks", *SCAN_METRICS]
    rows = [{"model": model, **scan} for model, scans in found.items() for scan in scans]
    table = pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(SCAN_METRICS, float))  # None: no such tissue
    patients = manifest[manifest["state"] == "kept"][["dataset", "scan", "subject"]]
    named = patients.rename(columns={"subject": "patient"})
    return table.merge(named, on=["dataset", "scan"], how="left", validate="many_to_one")


def datasets_table(scans: pd.DataFrame) -> pd.DataFrame:
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
    columns = values[[*models]].to_numpy(np.float64).T  # 200 networks are 19,900 pairs
    for (first, ours), (second, theirs) in combinations(zip(models, columns, strict=True), 2):
        both = ours - theirs
        differences = both[np.isfinite(both)]
        rows.append({
            "metric": metric, "first": first, "second": second, "patients": len(differences),
            "difference": differences.mean() if len(differences) else np.nan, "p": paired_test(differences),
        })  # fmt: skip
    table = pd.DataFrame(rows, columns=["metric", "first", "second", "patients", "difference", "p"])
    table["p_holm"] = holm(table["p"].to_numpy(np.float64))
    words = np.where(table["p_holm"] < _SIGNIFICANT, "differ", "no difference shown")
    table["verdict"] = np.where(table["p"].isna(), f"not testable: fewer than {LEAST_PATIENTS} patients", words)
    return table


def nps_table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """Noise power spectra of the part ``test``: a row a model and frequency (cycles/mm), ``nps`` in HU^2 mm^2.

    Means over scans, weighted by their uniform blocks; ``blocks`` says how many there were.
    """
    rows = [
        {"model": model, "frequency": round(frequency, 6), "power": nps * scan["noise_blocks"],
         "blocks": scan["noise_blocks"]}
        for model, scans in found.items() for scan in scans if scan["part"] == "test"
        for frequency, nps in zip(*scan["nps"], strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "frequency", "power", "blocks"])
    sums = table.groupby(["model", "frequency"], sort=False)[["power", "blocks"]].sum().reset_index()
    return sums.assign(nps=sums["power"] / sums["blocks"])[["model", "frequency", "nps", "blocks"]]
