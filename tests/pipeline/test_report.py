import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.report.figures import FIGURES, draw_all
from pipeline.report.files import FILES
from pipeline.report.paper import TABLE_2
from pipeline.report.results import Results
from pipeline.report.table2 import as_latex, as_markdown, table2
from pipeline.report.volumes import read_stacks, viewer_data
from pipeline.report.write import write_report
from pipeline.settings.cells import cells_of
from pipeline.settings.run import RunSettings
from tests.pipeline.runs import Hu, fill, judge, settings_of
from tests.scans import chest

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def settings() -> RunSettings:
    return settings_of(study={"slices": [16]})


def test_a_partial_study_gives_a_partial_report(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, {"2d", "3d-s16-r1"}, HOSTILE)
    states = {"2d": ("done", ""), "3d-s16-r1": ("done", ""), "3d-s16-r2": ("failed", f"rank 1 died {HOSTILE}")}
    given = pd.DataFrame([{"stage": "study", "item": HOSTILE, "gpus": 2, "gpu_hours": 1.5, "source": "sacct"}])
    write_report(tmp_path, settings, cells, states, ["low-dose", "2d", "3d-s16-r1"], given)
    report = tmp_path / "report"
    assert {path.name for path in report.iterdir()} == {*FILES, "figures"}
    trained = pd.read_csv(report / "cells.csv").set_index("cell")
    assert trained.loc["3d-s16-r2", "state"] == "failed"
    assert np.isnan(trained["training_seconds"]["3d-s16-r2"])
    assert pd.read_csv(report / "speedup.csv")["cell"].tolist() == ["3d-s16-r1"]
    quality = pd.read_csv(report / "quality.csv").set_index("model")
    assert quality["rmse_hu_mean"].to_dict() == {"low-dose": 41, "2d": 51, "3d-s16-r1": 21}
    assert quality["rmse_hu_sd"]["2d"] == pytest.approx(np.std([0, 1, 2, 0, 1, 2], ddof=1))
    assert quality["rmse_change"]["3d-s16-r1"] == pytest.approx(21 / 41 - 1)
    assert quality["beats_input"].to_dict() == {"low-dose": "-", "2d": "no", "3d-s16-r1": "yes"}
    page = (report / "index.html").read_text()
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)") == 8  # the scan in five places, the item, the reason in two
    assert "1.50 GPU-hours" in page
    assert re.search(r"Worse than the low-dose input left alone: 2d\.", page)
    assert "No figure: all trainings that are done have the same transfer." in page
    summary = (report / "summary.txt").read_text()
    assert "3d-s16-r2: failed: rank 1 died" in summary


def test_a_report_without_any_training_still_has_the_input(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    fill(tmp_path, cells, set())
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
    assert "No figure: no training of a 3D network is done." in (report / "index.html").read_text()


def test_a_report_without_scans_says_what_is_missing(tmp_path: Path, settings: RunSettings) -> None:
    cells = cells_of(settings)
    states = {cell.id: ("missing", "not trained") for cell in cells}
    write_report(tmp_path, settings, cells, states, [], pd.DataFrame())
    report = tmp_path / "report"
    assert pd.read_csv(report / "cells.csv")["state"].tolist() == ["missing"] * 3
    page = (report / "index.html").read_text()
    for text in ("The scans were not split", "None: nothing was judged", "None: there is no manifest",
                 "No images: nothing was judged on the held-out slices"):  # fmt: skip
        assert text in page
    assert page.count("No figure:") == len(FIGURES)
    for name in FIGURES:
        assert page.count(f'id="{name}"') == 1


def test_red_cnn_and_several_transfers_stand_side_by_side(tmp_path: Path) -> None:
    study = {"slices": [16], "ranks": [1, 2], "transfer": ["none", "zero", "repeat"]}
    settings = settings_of(red_cnn={}, study=study)
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
    assert "as good as 2d in validation (75.0% of the input's RMSE)" in summary
    assert "3d-s16-r2               zero             0       4" in summary
    assert "3d-s16-r2-none          none             4" in [line.rstrip() for line in summary]
    with Image.open(report / "figures" / "fig9-slices.png") as picture:
        assert picture.width == round(300 * 1.75 * 5)  # low dose, 2D, RED-CNN, the best 3D, full dose
    assert "Steps until as good as the 2D-DDnet" in (report / "index.html").read_text()


def training(**changes: object) -> dict[str, object]:
    return {"state": "done", "arm": "full", "model": "ddnet", "dims": 3, "slices": 16, "ranks": 2,
            "sampling": "grouped", "transfer": "zero", "epochs": 50, "device": "cpu", **changes}  # fmt: skip


def table2_of(**changes: object) -> pd.DataFrame:
    """Table 2 of one 3D training with two seeds, 100 and 200 s, and one 2D network that was not judged."""
    deep = training(**changes)
    flat = {**deep, "cell": "2d", "dims": 2, "slices": 1, "ranks": 1, "transfer": "none", "training_seconds": 3725.0}
    seeds = [{**deep, "cell": f"a{seed}", "training_seconds": 100.0 * seed} for seed in (1, 2)]
    judged = [("low-dose", 4e-4, 0.90), ("a1", 1e-4, 0.92), ("a1", 2e-4, 0.94), ("a2", 3e-4, 0.96)]
    return table2(pd.DataFrame([flat, *seeds]), pd.DataFrame(judged, columns=["model", "mse", "ms_ssim"]))


def test_table_2_has_the_papers_row_beside_ours() -> None:
    table = table2_of().set_index("architecture")
    ours = table.loc["3D-DDnet TL+GDL"].iloc[0]
    assert (ours["seeds"], ours["seconds"]) == (2, 150)
    assert ours["mse_mean"] == pytest.approx(2e-4)
    assert ours["ms_ssim_sd"] == pytest.approx(np.std([0.92, 0.94, 0.96], ddof=1))
    assert ours["paper_seconds"] == 5 * 3600 + 24 * 60 + 7
    assert ours["paper_ms_ssim_mean"] == 0.9258
    assert table.loc["low-dose input", "ms_ssim_mean"] == 0.90
    assert table.loc["2D-DDnet", "paper_seconds"] == 8 * 3600 + 44 * 60 + 32
    assert table["mse_mean"].isna()["2D-DDnet"]
    assert len(table) == 3 + len(TABLE_2) - 2  # no row of the paper's is lost or told twice


def test_table_2_takes_the_papers_row_of_as_many_epochs() -> None:
    rows = table2_of(slices=32, epochs=25)
    ours = rows[rows["seeds"] == 2].iloc[0]
    assert (ours["paper_epochs"], ours["paper_seconds"]) == (25, 10 * 3600 + 52 * 60 + 32)
    other = table2_of(slices=32, epochs=7)
    assert other[other["seeds"] == 2].iloc[0]["paper_epochs"] == 50


def test_table_2_at_a_small_size_takes_the_papers_rows_in_their_order() -> None:
    """Three and two epochs stand beside 50 and 25; a transfer into strided slices is the paper's TL."""
    several = [training(cell=f"e{epochs}", slices=32, epochs=epochs, training_seconds=1.0) for epochs in (2, 3)]
    strided = training(cell="tl", slices=32, sampling="strided", epochs=1, training_seconds=1.0)
    judged = pd.DataFrame([("low-dose", 4e-4, 0.90)], columns=["model", "mse", "ms_ssim"])
    table = table2(pd.DataFrame([*several, strided]), judged)
    measured = table[table["seeds"].notna()]
    assert dict(zip(measured["epochs"], measured["paper_epochs"], strict=True)) == {2: 25, 3: 50, 1: 15}
    assert len(table) == 1 + len(TABLE_2)


def test_table_2_in_markdown_and_latex() -> None:
    lines = as_markdown(table2_of()).splitlines()
    told = "| 3D-DDnet TL+GDL | 50 | 16 | 2 | 0:02:30 | 2.00e-04 ± 1.00e-04 | 0.9400 ± 0.0200 | 50 | 5:24:07 |"
    assert any(line.startswith(told) for line in lines)
    assert "| 2D-DDnet | 50 | - | 1 | 1:02:05 | - | - | 50 | 8:44:32 | 0.0039 ± 0.0015 | 0.7888 ± 0.0857 |" in lines
    latex = as_latex(table2_of()).splitlines()
    assert {line.count("&") for line in latex if line.endswith("\\\\") and "multicolumn" not in line} == {10}
    assert r"2.00e-04 $\pm$ 1.00e-04" in "".join(latex)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of a study whose analysis has all that figures can show."""
    from pipeline.report.write import collect

    grid = {"slices": [16, 32], "ranks": [1, 2, 4], "transfer": ["none", "zero"], "seeds": [0, 1]}
    settings = settings_of(study={**grid, "control_steps": 30})
    cells, folder = cells_of(settings), tmp_path_factory.mktemp("run")
    ids = [cell.id for cell in cells]
    fill(folder, cells, ids, lines=40)
    states = dict.fromkeys(ids, ("done", ""))
    return collect(folder, settings, cells, states, ["low-dose", *ids], pd.DataFrame())


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, results: Results) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "figures"
    assert not [figure for figure in draw_all(results, folder) if figure.missing]
    return folder


def test_every_figure_is_drawn_as_png_and_svg_and_again_the_same(
    tmp_path: Path, results: Results, figures: Path
) -> None:
    files = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert set(files) == {f"{name}{ending}" for name in FIGURES for ending in (".png", ".svg")}
    shutil.copytree(figures, tmp_path / "figures")
    list(draw_all(results, tmp_path / "figures"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()} == files


def test_a_figure_that_can_no_longer_be_drawn_goes(tmp_path: Path, results: Results, figures: Path) -> None:
    shutil.copytree(figures, tmp_path / "figures")
    tables = {name: table if name == "quality" else table.iloc[:0] for name, table in results.tables.items()}
    without = Results(tables, results.curves.iloc[:0], results.judged.iloc[:0], None)
    drawn = list(draw_all(without, tmp_path / "figures"))
    missing = {figure.path.name: figure.missing for figure in drawn if figure.missing}
    assert set(missing) == set(FIGURES) - {"bias", "sharpness"}
    assert "no control arm was trained" in missing["attribution"]
    left = {path.name for path in (tmp_path / "figures").iterdir()}
    assert left == {f"{name}{ending}" for name in ("bias", "sharpness") for ending in (".png", ".svg")}


def test_the_viewer_takes_as_many_middle_slices_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full: Hu = chest(7, 64)
    (tmp_path / "evaluation").mkdir()
    judge(tmp_path, "low-dose", full)
    stacks = read_stacks(tmp_path, pd.DataFrame({"model": ["low-dose"], "rmse_hu_mean": [40.0]}), [], 0.25)
    assert stacks
    whole = viewer_data(stacks)
    assert (whole["names"], len(whole["slices"])) == (["low dose (25 %)", "full dose"], 7)
    size = sum(3 * len(text) / 4 for texts in whole["slices"] for text in texts)
    monkeypatch.setattr("pipeline.report.volumes.PACKED_BYTES", int(0.5 * size))
    assert viewer_data(stacks)["slices"] == whole["slices"][2:5]
    monkeypatch.setattr("pipeline.report.volumes.PACKED_BYTES", 0)
    assert viewer_data(stacks)["slices"] == whole["slices"][3:4]
