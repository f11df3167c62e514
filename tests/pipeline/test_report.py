import json
import math
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.report.cell_pages import cell_pages
from pipeline.report.figures import FIGURES
from pipeline.report.files import FILES
from pipeline.report.html import write_page
from pipeline.report.quality import quality_lines, write_quality
from pipeline.report.summary import summary
from pipeline.report.volumes import read_stacks, viewer_data
from pipeline.report.write import collect, write_report
from pipeline.settings.cells import cells_of
from pipeline.settings.run import RunSettings
from tests.pipeline.runs import WITH_RED_CNN, Hu, fill, judge, settings_of, write_load
from tests.scans import chest

HOSTILE = "<script>alert(1)</script>"
LEAN: dict[str, Any] = {"formats": []}  # of each figure the file that the page shows


@pytest.fixture
def settings() -> RunSettings:
    return settings_of(study={"slices": [16]}, report=LEAN)


@pytest.mark.slow
def test_reports_import_no_torch() -> None:
    """It takes seconds of a slow core, and a report needs none of it."""
    code = "import sys; sys.modules['torch'] = None; import pipeline.report.search, pipeline.report.write"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_partial_study_gives_a_partial_report(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, {"2d", "3d-s16-r1"}, HOSTILE)
    states = {"2d": ("done", ""), "3d-s16-r1": ("done", ""), "3d-s16-r2": ("failed", f"rank 1 died {HOSTILE}")}
    usage = pd.DataFrame([{"stage": "study", "item": HOSTILE, "gpus": 2, "gpu_hours": 1.5, "source": "sacct"}])
    write_report(tmp_path, settings, cells, states, ["low-dose", "2d", "3d-s16-r1"], usage)
    report = tmp_path / "report"
    assert {path.name for path in report.iterdir()} == {*FILES, "figures"}
    trained = pd.read_csv(report / "cells.csv").set_index("cell")
    assert trained.loc["3d-s16-r2", "state"] == "failed"
    assert np.isnan(trained["training_seconds"]["3d-s16-r2"])
    texts = pd.read_csv(report / "cells.csv", dtype=str, keep_default_na=False).set_index("cell")
    for count in ("parameters", "steps", "samples", "effective_batch", "peak_bytes", "nodes"):
        assert texts[count]["3d-s16-r1"].isdigit(), count
        assert texts[count]["3d-s16-r2"] == ""
    sizes = pd.read_csv(report / "networks.csv", dtype=str, keep_default_na=False)["peak_bytes"]
    assert all(size == "" or size.isdigit() for size in sizes)
    assert pd.read_csv(report / "speedup.csv")["cell"].tolist() == ["3d-s16-r1"]
    quality = pd.read_csv(report / "quality.csv").set_index("model")
    assert quality["rmse_hu_mean"].to_dict() == {"low-dose": 41, "2d": 51, "3d-s16-r1": 21}
    assert quality["rmse_hu_sd"]["2d"] == pytest.approx(np.std([0, 1, 2, 0, 1, 2], ddof=1))
    assert quality["rmse_change"]["3d-s16-r1"] == pytest.approx(21 / 41 - 1)
    assert quality["beats_input"].to_dict() == {"low-dose": "-", "2d": "no", "3d-s16-r1": "yes"}
    page = (report / "index.html").read_text()
    linked, written = set(re.findall('href="(figures/[^"]+)"', page)), (report / "figures").iterdir()
    assert linked == {f"figures/{path.name}" for path in written}
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)") == 8  # the scan in five places, the item, the reason in two
    assert "1.50 GPU-hours" in page
    assert re.search(r"Not better than the low-dose input left alone: 2d\.", page)
    assert "No figure: all trainings that are done have the same transfer." in page
    summary = (report / "summary.txt").read_text()
    assert "3d-s16-r2: failed: rank 1 died" in summary
    for dataset in ("", " of LIDC-IDRI", " of Mayo"):
        scans = "1 scan, 3" if dataset else "2 scans, 6"
        sentence = (
            f"On the test part{dataset} with measured low dose ({scans} slices) no classical denoiser was judged, "
            "the best of 2 networks (3d-s16-r1) removes 48.8 % of the input's RMSE."
        )
        assert sentence in summary
        assert f"<p>{sentence}</p>" in unescape(page)  # no warning, as nothing won against the network


def test_evaluate_and_run_show_the_same_error(tmp_path: Path, settings: RunSettings) -> None:
    """That over slices, by which the sentence below them says who wins; `evaluate` showed that over scans."""
    cells = cells_of(settings)
    fill(tmp_path, cells, {"2d"})
    tables = write_quality(tmp_path, ["low-dose", "2d"], tmp_path / "quality", [])
    shown = [line.split()[:2] for line in quality_lines(tables).splitlines()]
    assert ["low-dose", "41"] in shown
    assert ["2d", "51"] in shown
    tables["quality"]["bias_bone"] = math.nan
    assert [line.split()[-1] for line in quality_lines(tables).splitlines()[2:4]] == ["-", "-"]


@pytest.mark.slow
def test_a_report_without_any_training_still_has_the_input(tmp_path: Path) -> None:
    settings = settings_of(study={"slices": [16]}, data={"sources": [{"kind": "mayo", "path": "mayo"}]})
    cells = cells_of(settings)
    fill(tmp_path, cells, set())
    judge(tmp_path, "low-dose", np.full((3, 64, 64), -500, np.int16), dose=None)
    write_report(
        tmp_path, settings, cells, {cell.id: ("missing", "not trained") for cell in cells}, ["low-dose"], pd.DataFrame()
    )
    report = tmp_path / "report"
    assert pd.read_csv(report / "quality.csv")["model"].tolist() == ["low-dose"]
    assert sorted(path.name for path in (report / "figures").glob("*.png")) == [
        "bias.png",
        "fig8-differences.png",
        "fig9-slices.png",
        "noise-spectra.png",
        "sharpness.png",
    ]
    page = (report / "index.html").read_text()
    assert "No figure: no training of the study is done." in page
    assert "not for diagnosis. Measured low dose." in page
    assert "Simulated dose" not in page
    assert "low dose (measured)" in page
    assert "low dose (25 %)" not in page
    assert page.count("<p>On the test part") == 3


@pytest.mark.parametrize(("network", "start"), [("2d", '<p class="warn">'), ("3d-s16-r1", "<p>")])
def test_the_page_warns_where_a_network_loses(network: str, start: str, tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, {network})
    judge(tmp_path, "tv", np.full((3, 64, 64), -500, np.int16))
    states = {cell.id: ("done" if cell.id == network else "missing", "") for cell in cells}
    results = collect(tmp_path, settings, cells, states, ["low-dose", "tv", network], pd.DataFrame())
    write_page(tmp_path, settings, cells, results, [], tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert page.count(f"{start}On the test part") == 3
    assert page.count("On the test part") == 3


def test_a_report_without_scans_says_what_is_missing(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    states = {cell.id: ("missing", "not trained") for cell in cells}
    write_report(tmp_path, settings, cells, states, [], pd.DataFrame())
    report = tmp_path / "report"
    assert pd.read_csv(report / "cells.csv")["state"].tolist() == ["missing"] * 3
    page = (report / "index.html").read_text()
    for text in ("Simulated dose: 25 % of full.", "The scans were not split", "None: nothing was judged",
                 "None: there is no manifest", "No images: nothing was judged on the held-out slices"):  # fmt: skip
        assert text in page
    shown = [name for name, figure in FIGURES.items() if figure.section != "doses"]  # of runs with several doses
    assert page.count("No figure:") == len(shown)
    for name in shown:
        assert page.count(f'id="{name}"') == 1


def test_the_table_of_scans_shows_their_noise_and_the_page_warns_of_odd_noise(
    tmp_path: Path, settings: RunSettings
) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, set())
    path = tmp_path / "data" / "manifest.csv"
    manifest = pd.read_csv(path).assign(noise_full_hu=12.5, noise_full_hu_low=12.0, noise_full_hu_high=13.0)
    remaining = len(manifest) - 1
    ratios, remarks = [1.24, *[1.0] * remaining], ["added noise is 1.24 of the expected", *[""] * remaining]
    manifest.assign(noise_added_hu=41.25, noise_ratio=ratios, noise_remark=remarks).to_csv(path, index=False)
    states = {cell.id: ("missing", "not trained") for cell in cells}
    write_report(tmp_path, settings, cells, states, ["low-dose"], pd.DataFrame())
    page = (tmp_path / "report" / "index.html").read_text()
    for text in ("own noise (HU) [95\u00a0%] = 12.5 [12, 13]", "added noise (HU) = 41.25",
                 ">added / expected noise</th>", ">remark on noise</th>", "added noise is 1.24 of the expected</td>",
                 f"Noise to look at in 1 of {len(manifest)} scans: the noise added to 1 is below 0.9",
                 'of what the dose must add. The column "remark on noise" says why;'):  # fmt: skip
        assert text in page


@pytest.mark.slow
def test_red_cnn_and_several_transfers_stand_side_by_side(tmp_path: Path) -> None:
    study = {"slices": [16], "ranks": [1, 2], "transfer": ["none", "zero", "repeat"]}
    redcnn = {**WITH_RED_CNN["redcnn"], "training": {"fresh": True, "doses": [0.1, 0.05]}}
    settings = settings_of(networks={**WITH_RED_CNN, "redcnn": redcnn}, study=study, report=LEAN)
    cells = cells_of(settings)
    ids = [cell.id for cell in cells]
    fill(tmp_path, cells, ids)
    result = tmp_path / "cells" / "redcnn" / "result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "cpu_seconds": 12.5, "effective_batch": 4}))
    write_report(tmp_path, settings, cells, dict.fromkeys(ids, ("done", "")), ["low-dose", *ids], pd.DataFrame())
    report = tmp_path / "report"
    trained = pd.read_csv(report / "cells.csv").set_index("cell")
    assert trained["model"].to_dict() == {**dict.fromkeys(ids, "ddnet"), "redcnn": "redcnn"}
    assert trained["transfer"].to_dict() == {cell.id: cell.transfer for cell in cells}
    assert trained["doses"].to_dict() == dict.fromkeys(ids, "stored") | {"redcnn": "fresh 0.05 0.1"}
    assert trained["cpu_seconds"]["redcnn"] == 12.5
    assert trained["effective_batch"]["redcnn"] == 4
    assert pd.read_csv(report / "quality.csv")["model"].tolist() == ["low-dose", *ids]
    speed = pd.read_csv(report / "speedup.csv")
    fills = ["none", "zero", "repeat"]
    assert speed["transfer"].tolist() == [name for name in fills for _ in (1, 2)]
    assert speed["baseline"].tolist() == [
        cell for cell in ("3d-s16-r1-none", "3d-s16-r1", "3d-s16-r1-repeat") for _ in (1, 2)
    ]
    transfer = pd.read_csv(report / "transfer.csv").set_index("cell")
    assert transfer["steps_to_2d"].to_dict() == {cell.id: 0 if cell.transfer == "zero" else 4 for cell in cells[2:]}
    saved = {"zero": 4.0, "repeat": 0.0}
    assert transfer["steps_saved"].dropna().to_dict() == {
        cell.id: saved[cell.transfer] for cell in cells if cell.transfer in saved
    }
    summary = (report / "summary.txt").read_text().splitlines()
    assert "as good as the 2D counterpart in validation (2d: 75.0% of the input's RMSE)" in summary
    assert "3d-s16-r2               zero             0       4" in summary
    assert "3d-s16-r2-none          none             4" in [line.rstrip() for line in summary]
    with Image.open(report / "figures" / "fig9-slices.png") as picture:
        assert picture.width == round(300 * 1.75 * 5)  # low dose, 2D, RED-CNN, the best 3D, full dose
    assert "Steps until as good as the 2D counterpart" in (report / "index.html").read_text()


def test_volumes_on_which_the_2d_network_was_not_validated_have_no_steps_until_as_good_as_it(tmp_path: Path) -> None:
    settings = settings_of(study={"slices": [16, 32], "ranks": [1], "transfer": ["none", "zero"]}, report=LEAN)
    cells = cells_of(settings)
    ids = [cell.id for cell in cells]
    fill(tmp_path, cells, ids)
    states = dict.fromkeys(ids, ("done", ""))
    tables = collect(tmp_path, settings, cells, states, ["low-dose", *ids], pd.DataFrame()).tables
    validated_on = tables["cells"].set_index("cell")["validated_on"]
    compares = validated_on == validated_on["2d"]
    assert compares.index[compares].tolist() == ["2d", "3d-s16-r1-none", "3d-s16-r1"]
    assert validated_on["3d-s32-r1"] == validated_on["3d-s32-r1-none"]
    transfer = tables["transfer"].set_index("cell")
    assert transfer["error_2d"].dropna().to_dict() == {"3d-s16-r1-none": 0.75, "3d-s16-r1": 0.75}
    assert transfer["steps_to_2d"].dropna().to_dict() == {"3d-s16-r1-none": 4, "3d-s16-r1": 0}
    assert transfer["steps_saved"].dropna().to_dict() == {"3d-s16-r1": 4, "3d-s32-r1": 4}
    assert transfer.index[transfer["reason"] != ""].tolist() == ["3d-s32-r1-none", "3d-s32-r1"]


@pytest.mark.slow
def test_a_summary_has_no_table_without_rows(tmp_path: Path) -> None:
    settings = settings_of(networks={"2d": {"model": "ddnet", "dims": 2}}, report=LEAN)
    cells = cells_of(settings)
    fill(tmp_path, cells, {"2d"})
    write_report(tmp_path, settings, cells, {"2d": ("done", "")}, ["low-dose", "2d"], pd.DataFrame())
    lines = (tmp_path / "report" / "summary.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["model", "low-dose", "2d"]
    assert "" not in lines
    tables = collect(tmp_path, settings, cells, {"2d": ("done", "")}, ["low-dose", "2d"], pd.DataFrame()).tables
    single = tables["quality"].assign(rmse_hu_mean=38.984, rmse_hu_sd=math.nan)  # of one slice
    of_input = summary(single, [], tables["speedup"], tables["transfer"], tables["cells"]).splitlines()[1]
    assert of_input.split()[:3] == ["low-dose", "38.98", "+0.0%"]
    for change, text in ((-2e-4, "+0.0%"), (math.nan, "-")):  # of the latter the input was not judged
        changed = single.assign(rmse_change=change)
        of_input = summary(changed, [], tables["speedup"], tables["transfer"], tables["cells"]).splitlines()[1]
        assert of_input.split()[2] == text


def test_the_viewer_takes_as_many_middle_slices_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full: Hu = chest(7, 64)
    (tmp_path / "evaluation").mkdir()
    judge(tmp_path, "low-dose", full)
    stacks = read_stacks(tmp_path, pd.DataFrame({"model": ["low-dose"], "rmse_hu_mean": [40.0]}), [], 0.25)
    assert stacks
    uncut = viewer_data(stacks)
    assert (uncut["names"], len(uncut["slices"])) == (["low dose (25 %)", "full dose"], 7)
    size = sum(3 * len(text) / 4 for texts in uncut["slices"] for text in texts)
    monkeypatch.setattr("pipeline.report.volumes.PACKED_BYTES", int(0.5 * size))
    assert viewer_data(stacks)["slices"] == uncut["slices"][2:5]
    monkeypatch.setattr("pipeline.report.volumes.PACKED_BYTES", 0)
    assert viewer_data(stacks)["slices"] == uncut["slices"][3:4]


def test_a_long_course_ends_with_its_last_value_and_names_its_lowest(settings: RunSettings) -> None:
    """500 validations, the best of them but one the last; the curve has 160 points."""
    errors = [30.0] * 498 + [10.0, 20.0]
    curves = pd.DataFrame({"cell": "2d", "kind": "validation", "samples": range(500), "loss": np.nan,
                           "rmse_hu": errors, "low_dose_rmse_hu": 40.0})  # fmt: skip
    row = pd.DataFrame([{"cell": "2d", "state": "done", "reason": ""}])
    (course,) = cell_pages(cells_of(settings)[:1], row, curves)[0].courses
    assert (course.lowest, course.highest, course.last, course.samples) == ("25", "75", "50", 499)
    points = course.points.split()
    assert len(points) == 160
    assert (points[0], points[-1]) == ("0.0,0.0", "320.0,45.0")


@pytest.mark.slow
def test_a_disturbed_study_says_so_in_its_summary_and_on_its_page(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    ids = [cell.id for cell in cells]
    fill(tmp_path, cells, ids)
    for cell, share in (("3d-s16-r1", 0.5), ("3d-s16-r2", 0.0)):
        write_load(tmp_path, cell, {"foreign_share": share})
    write_report(tmp_path, settings, cells, dict.fromkeys(ids, ("done", "")), ["low-dose", *ids], pd.DataFrame())
    report = tmp_path / "report"
    speed = pd.read_csv(report / "speedup.csv").set_index("ranks")
    assert speed["disturbed"][1] == "3d-s16-r1"
    assert set(speed["baseline"]) == {"3d-s16-r2"}
    lines = (report / "summary.txt").read_text().splitlines()
    of_speed = lines[lines.index("") :]
    assert [line.split()[-1] for line in of_speed if line.startswith("3d-s16-r")][:2] == ["disturbed", "100%"]
    assert "left out, as disturbed: 3d-s16-r1" in lines
    page = (report / "index.html").read_text()
    assert "other processes took 50% of the cores that its ranks may use" in page
    assert "left out, as disturbed: 3d-s16-r1" in page
