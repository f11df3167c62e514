"""Statistics and tables of quality against closed forms and another library."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from pipeline.quality.measures import MEASURES, SCAN_MEASURES, SLAB_MEASURES, SLICE_MEASURES, names
from pipeline.quality.statistics import holm, paired_test
from pipeline.report import quality_tests
from pipeline.report.figures.quality import draw_bias, draw_noise_spectra, draw_sharpness
from pipeline.report.quality_tables import interval, nps_table, quality_tables
from pipeline.report.results import Results

MODELS = ("low-dose", "tv", "2d")


def numbered(patients: int) -> "pd.Series[str]":
    return pd.Series([f"p{n}" for n in range(patients)])


def students(values: "pd.Series[float]") -> tuple[float, float]:
    """SciPy's interval of the mean of independent values."""
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return float(low), float(high)


@pytest.mark.parametrize("patients", [2, 3, 5, 40])
def test_the_interval_is_that_of_scipy_where_each_patient_has_one_scan(patients: int) -> None:
    values = pd.Series(np.random.default_rng(1).normal(30, 5, patients))
    assert interval(values, numbered(patients)) == pytest.approx(students(values))


def test_a_patient_with_more_scans_counts_more_in_the_interval_as_in_the_mean() -> None:
    """Of 1, 1 and 4 scans: the jackknife's variance, and 6^2 / 18 = 2 effective patients, so a freedom of 1."""
    values, patients = pd.Series([1.0, 2.0, *[6.0] * 4, np.nan]), pd.Series([*"abccccc"])
    without = np.array([26 / 5, 25 / 5, 3 / 2])
    half = stats.t.ppf(0.975, 1) * np.sqrt(2 / 3 * ((without - 4.5) ** 2).sum())
    assert interval(values, patients) == pytest.approx((4.5 - half, 4.5 + half))


def test_scans_of_a_patient_are_not_independent() -> None:
    of_patient = np.random.default_rng(1).normal(30, 5, 10)
    values, patients = pd.Series(np.repeat(of_patient, 8)), pd.Series([*"abcdefghij"]).repeat(8).reset_index(drop=True)
    low, high = interval(values, patients)
    once = interval(pd.Series(of_patient), pd.Series([*"abcdefghij"]))
    assert (low, high) == pytest.approx(once)
    naive = interval(values, numbered(80))
    assert high - low > 2 * (naive[1] - naive[0])


def test_five_patients_give_no_test_and_one_gives_no_interval() -> None:
    assert np.isnan(interval(pd.Series(np.arange(500.0)), pd.Series(["a"] * 500))).all()
    assert np.isnan(interval(pd.Series([np.nan, 1.0]), pd.Series([*"ab"]))).all()
    assert np.isnan(paired_test(np.arange(1.0, 6)))
    assert paired_test(np.arange(1.0, 7)) == pytest.approx(2 / 2**6)  # all of one sign
    assert paired_test(np.arange(8.0)) == pytest.approx(2 / 2**7)  # Wilcoxon leaves out who does not differ
    assert paired_test(np.zeros(6)) == 1


def test_holm_multiplies_the_smallest_most() -> None:
    """The example of three: 0.01 x 3, 0.02 x 2, 0.04 x 1, none below the one before."""
    np.testing.assert_allclose(holm(np.array([0.04, np.nan, 0.01, 0.02])), [0.04, np.nan, 0.03, 0.04])
    assert holm(np.array([0.6, 0.9])).tolist() == [1, 1]


SLICES = pd.DataFrame([
    {"model": model, "dataset": "A", "scan": "s", "slice": 0, **dict.fromkeys(names(SLICE_MEASURES), 0.5)}
    for model in MODELS
])  # fmt: skip


def fill(root: Path, patients: int) -> None:
    """Two scans a patient; ``tv`` is 10 HU better than the input, ``2d`` better or worse by chance."""
    generator = np.random.default_rng(0)
    scans = [(f"p{n}", f"s{n}-{k}", ("A", "B")[n % 2]) for n, k in product(range(patients), range(2))]
    (root / "data").mkdir()
    (root / "evaluation").mkdir()
    manifest = [{"dataset": d, "subject": p, "scan": s, "state": "kept", "low_dose": "measured"} for p, s, d in scans]
    pd.DataFrame([*manifest, {**manifest[0], "state": "turned away"}]).to_csv(
        root / "data" / "manifest.csv", index=False
    )
    base = generator.normal(40, 3, len(scans))
    for model, gain in zip(MODELS, (np.zeros(len(scans)), np.full(len(scans), 10), generator.normal(0, 1, len(scans))),
                           strict=True):  # fmt: skip
        rows: list[dict[str, Any]] = [
            {"part": part, "dataset": d, "scan": s, "slices": 9, "noise_blocks": 1 + (d == "B"),
             **dict.fromkeys(names(MEASURES), 0.5), "rmse_hu": rmse, "bias_bone": None,
             "nps": [[0.075, 0.125], [rmse, 3.0 if d == "A" else 6.0]]}
            for (_, s, d), rmse in zip(scans, base - gain, strict=True) for part in ("test", "validation")
        ]  # fmt: skip
        (root / "evaluation" / f"{model}.scans.json").write_text(json.dumps(rows))


def test_tables_say_what_is_better_and_how_sure_that_is(tmp_path: Path) -> None:
    fill(tmp_path, 8)
    tables = quality_tables(tmp_path, MODELS, SLICES)
    scans, datasets, tests, nps = (tables[name] for name in
                                   ("quality_scans", "quality_datasets", "quality_tests", "nps"))  # fmt: skip
    assert len(scans) == 3 * 2 * 16
    assert scans["patient"].nunique() == 8
    assert datasets.groupby(["model", "part"])["dataset"].agg(list).map(tuple).unique().tolist() == [("all", "A", "B")]
    row = datasets.set_index(["model", "part", "dataset"]).xs(("tv", "test", "all"))
    values = scans[(scans["model"] == "tv") & (scans["part"] == "test")]["rmse_hu"]
    assert (row["scans"], row["patients"]) == (16, 8)
    assert (row["rmse_hu_mean"], row["rmse_hu_sd"]) == pytest.approx((values.mean(), values.std()))
    assert row["rmse_hu_low"] < values.mean() < row["rmse_hu_high"]
    assert np.isnan(row["bias_bone_mean"])
    of_four = datasets.set_index(["model", "part", "dataset"]).xs(("tv", "test", "A"))
    of_patients = scans[(scans["model"] == "tv") & (scans["part"] == "test") & (scans["dataset"] == "A")]
    means = of_patients.groupby("patient")["rmse_hu"].mean()
    assert len(means) == 4
    assert (of_four["rmse_hu_low"], of_four["rmse_hu_high"]) == pytest.approx(students(means))
    errors = tests[tests["metric"] == "rmse_hu"].set_index(["first", "second"])
    assert errors.loc[("low-dose", "tv"), "difference"] == pytest.approx(10)
    assert errors.loc[("low-dose", "tv"), "p"] == pytest.approx(2 / 2**8)
    assert errors.loc[("low-dose", "tv"), "p_holm"] == pytest.approx(3 * 2 / 2**8)
    assert errors["verdict"].to_dict() == {
        ("low-dose", "tv"): "differ", ("low-dose", "2d"): "no difference shown", ("tv", "2d"): "differ",
    }  # fmt: skip
    curve = nps[nps["model"] == "tv"]
    assert curve["nps"].iloc[1] == pytest.approx((3 * 1 + 6 * 2) / 3)
    assert curve["blocks"].tolist() == [24, 24]
    quality = tables["quality"].set_index("model")
    assert quality.loc["tv", "rmse_hu_scans"] == pytest.approx(values.mean())
    assert {"patients", "rmse_hu_low", "rmse_hu_high", *names([*SLAB_MEASURES, *SCAN_MEASURES])} <= set(quality)


def test_spectra_of_scans_with_other_pixels_are_in_the_order_of_their_frequencies() -> None:
    """The rings of a scan with pixels of 0.9 mm lie between those of one with 0.6 mm."""
    power = {"fine": {0.05: 4.0, 0.1: 2.0, 0.15: 1.0}, "coarse": {0.025: 8.0, 0.1: 6.0, 0.075: 3.0}}
    spectra = pd.DataFrame([
        {"model": model, "frequency": frequency, "power": power[scan][frequency], "blocks": 2}
        for model in ("low-dose", "2d") for scan in power for frequency in power[scan]
    ])  # fmt: skip
    nps = nps_table(spectra)
    assert nps["model"].unique().tolist() == ["low-dose", "2d"]
    for _, curve in nps.groupby("model"):
        assert curve["frequency"].tolist() == [0.025, 0.05, 0.075, 0.1, 0.15]
        assert curve["nps"].tolist() == [4, 2, 1.5, 2, 0.5]
    assert nps_table(spectra.iloc[:0]).empty


def test_one_patient_is_no_sample(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    tests = quality_tables(tmp_path, MODELS, SLICES)["quality_tests"]
    assert tests["verdict"].unique().tolist() == ["not testable: fewer than 6 patients"]
    assert tests["p"].isna().all()


def test_subjects_that_the_split_joined_are_one_patient(tmp_path: Path) -> None:
    """Ten subjects are five patients by their studies; without the column of an earlier manifest, they are ten."""
    fill(tmp_path, 10)
    path = tmp_path / "data" / "manifest.csv"
    manifest = pd.read_csv(path)
    assert set(quality_tables(tmp_path, MODELS, SLICES)["quality_tests"]["patients"]) == {10}
    joined = {f"p{n}": f"p{n // 2}" for n in range(10)}
    manifest.assign(patient=manifest["subject"].map(joined)).to_csv(path, index=False)
    tables = quality_tables(tmp_path, MODELS, SLICES)
    assert set(tables["quality_tests"]["patients"]) == {5}
    assert tables["quality_tests"]["p"].isna().all()
    quality, scans = tables["quality"].set_index("model"), tables["quality_scans"].query("part == 'test'")
    assert set(quality["patients"]) == {5}
    means = scans.groupby(["model", "patient"])["rmse_hu"].mean()
    for model in MODELS:
        assert tuple(quality.loc[model, ["rmse_hu_low", "rmse_hu_high"]]) == pytest.approx(students(means[model]))


def test_a_patient_called_na_is_one_as_others(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    path = tmp_path / "data" / "manifest.csv"
    path.write_text(path.read_text().replace(",p3,", ",NA,"))
    tables = quality_tables(tmp_path, MODELS, SLICES)
    assert sorted(set(tables["quality_scans"]["patient"])) == ["NA", "p0", "p1", "p2", "p4", "p5"]
    assert set(tables["quality_tests"]["patients"]) == {6}


def test_figures_show_each_model_and_the_full_dose(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    tables = quality_tables(tmp_path, MODELS, SLICES)
    for number, name in enumerate(("bias_lung", "bias_soft", "bias_bone")):
        tables["quality"][name] = [0.5 * number, -1.0, 2.0]
    results = Results(tables, pd.DataFrame(), SLICES, None)
    spectra, sharp, bias = Figure(), Figure(), Figure()
    draw_noise_spectra(spectra, results)
    draw_sharpness(sharp, results)
    draw_bias(bias, results)
    assert [line.get_label() for line in spectra.axes[0].lines] == list(MODELS)
    points = {str(line.get_label()): line.get_xydata()[-1].tolist() for line in sharp.axes[0].lines}  # type: ignore[index,union-attr]
    assert points["full dose"] == [0, 1]
    assert points["tv"] == [0.5, 0.5]
    assert [tick.get_text() for tick in bias.axes[0].get_yticklabels()] == list(MODELS)
    for number, ax in enumerate(bias.axes):
        marks = [np.asarray(line.get_xydata())[0].tolist() for line in ax.lines[2::2]]
        assert marks == [[0.5 * number, 0], [-1, 1], [2, 2]]


def test_networks_are_tested_on_the_test_part_and_on_patients_that_both_have_a_number_of() -> None:
    rows = [{"model": model, "part": part, "patient": f"p{patient}", **dict.fromkeys(names(MEASURES), 1.0),
             "rmse_hu": 10.0 + patient + (model == "b") * (1 + 0.1 * patient) * (1 if part == "test" else -50)}
            for model, part, patient in product("ab", ("test", "validation"), range(7))]  # fmt: skip
    scans = pd.DataFrame(rows)
    scans.loc[(scans["patient"] == "p6") & (scans["model"] == "b"), "rmse_hu"] = np.nan
    row = quality_tests.tests_table(scans).set_index("metric").loc["rmse_hu"]
    differences = np.array([-(1 + 0.1 * patient) for patient in range(6)])
    assert (row["first"], row["second"], row["patients"]) == ("a", "b", 6)
    assert row["difference"] == pytest.approx(differences.mean())
    assert row["p"] == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert row["verdict"] == "differ"
