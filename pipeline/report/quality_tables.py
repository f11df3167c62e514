"""Tables of how good denoisers are: by slice, by scan, by data set, who wins, and their noise spectra."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data_prep.manifest import read_manifest
from data_prep.settings import ALL_DATASETS
from pipeline.quality.measures import MEASURES, RANKED_BY, SCAN_MEASURES, SLAB_MEASURES, SLICE_MEASURES, names
from pipeline.report.doses import DOSE, by_dose
from pipeline.report.quality_tests import tests_table
from pipeline.report.verdicts import verdicts_table
from pipeline.scaling.estimates import NOTHING, t_interval
from pipeline.settings.names import LOW_DOSE_INPUT

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of the judged scans, by model."""


def quality_tables(root: Path, judged: Sequence[str], slices: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Make the tables of the models ``judged`` in the run folder ``root``, by the names of their CSV files.

    ``slices``: a row a judged slice. Without any model the table ``quality`` is empty, and there is no other. Doses are
    never averaged: each has rows of its own.
    """
    quality = by_dose(quality_table, slices)
    if not judged:
        return {"quality": quality}
    rows = {model: json.loads((root / "evaluation" / f"{model}.scans.json").read_text()) for model in judged}
    manifest = read_manifest(root / "data" / "manifest.csv")
    scans = scans_table(rows, manifest)
    datasets = by_dose(datasets_table, scans)
    return {
        "quality": with_scans(quality, datasets), "quality_scans": scans, "quality_datasets": datasets,
        "quality_tests": by_dose(tests_table, scans), "quality_verdicts": verdicts_table(slices, manifest),
        "nps": by_dose(nps_table, spectra_table(rows)),
    }  # fmt: skip


def judged_table(root: Path, judged: Sequence[str]) -> pd.DataFrame:
    """Read a row for each model, the low-dose input among them, and held-out slice."""
    rows = [{"model": model, **row} for model in judged
            for row in json.loads((root / "evaluation" / f"{model}.json").read_text())]  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "dataset", "scan", "slice", DOSE, *names(SLICE_MEASURES)])
    return table.astype({DOSE: float})  # None, of a measured low dose and of earlier versions, becomes NaN


def quality_table(judged: pd.DataFrame) -> pd.DataFrame:
    """Summarise each model in a row, the low-dose input first: mean and SD of each measure over held-out slices.

    ``rmse_change``: relative to the input, negative is better; ``beats_input``: yes, no, unknown, or - for the input.
    """
    rows = [_quality_row(str(model), slices) for model, slices in judged.groupby("model", sort=False)]
    means = [f"{name}_{statistic}" for name in names(SLICE_MEASURES) for statistic in ("mean", "sd")]
    table = pd.DataFrame(rows, columns=["model", "scans", "slices", *means])
    of_input = table.loc[table["model"] == LOW_DOSE_INPUT, "rmse_hu_mean"].max()  # NaN while it is not judged
    table["rmse_change"] = table["rmse_hu_mean"] / of_input - 1
    beats = np.select([table["rmse_change"].isna(), table["rmse_change"] < 0], ["unknown", "yes"], "no")
    table["beats_input"] = np.where(table["model"] == LOW_DOSE_INPUT, "-", beats)
    return table


def _quality_row(model: str, slices: pd.DataFrame) -> dict[str, Any]:
    counts = {"model": model, "scans": slices["scan"].nunique(), "slices": len(slices)}
    return {**counts, **_means(slices, names(SLICE_MEASURES))}


def _means(rows: pd.DataFrame, columns: Iterable[str]) -> dict[str, float]:
    statistics: dict[str, float] = {}
    for name in columns:
        statistics |= {f"{name}_mean": rows[name].mean(), f"{name}_sd": rows[name].std(ddof=1)}
    return statistics


def with_scans(quality: pd.DataFrame, datasets: pd.DataFrame) -> pd.DataFrame:
    """Add to the table of models what was measured of whole held-out scans.

    ``patients``; ``rmse_hu_scans``, the mean RMSE of the scans, with its SD and its 95 % interval ``rmse_hu_low`` and
    ``_high``; and the means over scans of what slices alone cannot tell.
    """
    rows = datasets[(datasets["part"] == "test") & (datasets["dataset"] == ALL_DATASETS)]
    ranked = {"_scans": "_mean", "_scans_sd": "_sd", "_low": "_low", "_high": "_high"}
    columns = {"patients": "patients", **{f"{RANKED_BY}{new}": f"{RANKED_BY}{old}" for new, old in ranked.items()},
               **{name: f"{name}_mean" for name in names([*SLAB_MEASURES, *SCAN_MEASURES])}}  # fmt: skip
    key = ["model"] if quality["model"].is_unique else ["model", DOSE]
    added = rows[[*key, *columns.values()]].rename(columns={old: new for new, old in columns.items()})
    return quality.merge(added, on=key, how="left", validate="one_to_one")


def scans_table(rows: Rows, manifest: pd.DataFrame) -> pd.DataFrame:
    """Make a row a model, part of the split and scan: every measure, and ``patient`` as the split joined its subjects.

    The manifest of an earlier version does not name the patient; there each subject is one.
    ``rmse_hu``, ``mse`` and ``psnr`` are over all the scan's voxels, ``ssim`` and ``ms_ssim`` means over slices.
    """
    measured = names(MEASURES)
    columns = ["model", "part", "dataset", "scan", DOSE, "slices", "noise_blocks", *measured]
    table = pd.DataFrame([{"model": model, **scan} for model, scans in rows.items() for scan in scans], columns=columns)
    table = table.astype(dict.fromkeys([DOSE, *measured], float))  # None, where a scan has no such tissue, becomes NaN
    scans = manifest[manifest["state"] == "kept"]
    patients = scans[["dataset", "scan"]].assign(patient=scans.get("patient", scans["subject"]))
    return table.merge(patients, on=["dataset", "scan"], how="left", validate="many_to_one")


def datasets_table(scans: pd.DataFrame) -> pd.DataFrame:
    """Make a row a model, part and data set, and ``all`` of these: means, SDs and 95 % intervals over scans."""
    groups = pd.concat([scans.assign(dataset=ALL_DATASETS), scans]).groupby(["model", "part", "dataset"], sort=False)
    rows = [
        {"model": model, "part": part, "dataset": dataset, **_dataset_row(group)}
        for (model, part, dataset), group in groups
    ]
    return pd.DataFrame(rows)


def _dataset_row(scans: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {"scans": len(scans), "patients": scans["patient"].nunique()}
    for name in names(MEASURES):
        low, high = interval(scans[name], scans["patient"])
        row |= {**_means(scans, [name]), f"{name}_low": low, f"{name}_high": high}
    return row


def interval(values: "pd.Series[float]", patients: "pd.Series[str]") -> tuple[float, float]:
    """Return Student's 95 % interval of the mean over scans, from how patients differ; NaN of a single patient.

    The variance is the jackknife's, which leaves out one patient at a time (Efron and Tibshirani 1993, chapter 11), the
    freedom one less than the effective number of patients, as they have more and fewer scans (Kish 1965).
    """
    groups = values.dropna().groupby(patients)
    sums, counts = groups.sum().to_numpy(np.float64), groups.count().to_numpy(np.float64)
    number, total, scans = len(sums), sums.sum(), counts.sum()
    if number < 2:
        return NOTHING
    mean, without = total / scans, (total - sums) / (scans - counts)
    variance = (number - 1) / number * ((without - mean) ** 2).sum()
    return t_interval(float(mean), [variance], [scans**2 / (counts**2).sum() - 1])


def spectra_table(rows: Rows) -> pd.DataFrame:
    """Make a row a model, scan of the part ``test``, dose and frequency: power times its uniform blocks."""
    spectra = [
        {"model": model, DOSE: scan.get(DOSE), "frequency": round(frequency, 6), "power": nps * scan["noise_blocks"],
         "blocks": scan["noise_blocks"]}
        for model, scans in rows.items() for scan in scans if scan["part"] == "test"
        for frequency, nps in zip(*scan["nps"], strict=True)
    ]  # fmt: skip
    return pd.DataFrame(spectra, columns=["model", DOSE, "frequency", "power", "blocks"]).astype({DOSE: float})


def nps_table(spectra: pd.DataFrame) -> pd.DataFrame:
    """Average noise power spectra: a row a model and frequency (cycles/mm), of each model the lowest first.

    ``nps`` in HU^2 mm^2: means over scans, weighted by their uniform blocks; ``blocks`` says how many there were.
    """
    order = {model: number for number, model in enumerate(spectra["model"].unique())}
    sums = spectra.groupby(["model", "frequency"])[["power", "blocks"]].sum().reset_index()
    sums = sums.sort_values("model", key=lambda models: models.map(order), kind="stable")
    return sums.assign(nps=sums["power"] / sums["blocks"])[["model", "frequency", "nps", "blocks"]]
