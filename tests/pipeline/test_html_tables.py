"""Tables of the page: what stands in their cells, and what in the line above them."""

import re
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pytest

from pipeline.quality.measures import MEASURES
from pipeline.report.html_tables import MOST_ROWS, heading, show, show_datasets, text_of


def texts(shown: object) -> dict[str, list[str]]:
    return {column.title: [cell.text for cell in column.cells] for column in shown}  # type: ignore[attr-defined]


def test_an_interval_stands_behind_its_number() -> None:
    table = pd.DataFrame({
        "ranks": [1, 2], "speed_up": [1.0, 1.934], "speed_up_low": [np.nan, 1.906], "speed_up_high": [np.nan, 1.962],
        "efficiency": [1.0, 0.967], "efficiency_low": [np.nan, 0.953], "efficiency_high": [np.nan, 0.981],
    })  # fmt: skip
    shown = show(table, None, ())
    assert texts(shown.columns) == {
        "ranks": ["1", "2"], "speed up [95\u00a0%]": ["1", "1.934 [1.906, 1.962]"],
        "efficiency [95\u00a0%]": ["100.0 %", "96.7 % [95.3 %, 98.1 %]"],
    }  # fmt: skip
    assert [cell.key for cell in shown.columns[1].cells] == [1.0, 1.934]  # sorted by the number alone


def test_what_all_rows_say_stands_above_them_but_for_what_a_forecast_rests_on() -> None:
    table = pd.DataFrame({"law": "a", "slices": 16, "ranks": [1, 2], "fitted": "1 2", "assumed": "much", "low": np.nan,
                          "cell": "2d", "reason": ""})  # fmt: skip
    shown = show(table, None, ())
    assert [column.title for column in shown.columns] == ["law", "ranks", "fitted", "assumed"]
    common = {column.title: column.is_empty for column in shown.common}
    assert common == {"slices": False, "low": True, "cell": False, "reason": True}
    assert [column.title for column in show(table, None, ["2d"]).columns] == [
        "law", "ranks", "fitted", "assumed", "cell"]  # fmt: skip
    alone = show(table.iloc[:1], None, ())
    assert len(alone.columns) == 8
    assert not alone.common


def test_digests_of_scans_are_cut_to_what_people_compare() -> None:
    """Sixty-four digits made tables of one row wider than a sheet of paper."""
    table = pd.DataFrame({"network": ["3d"], "data": ["d35d6433" + 56 * "0"]})
    assert texts(show(table, None, ()).columns)["data"] == ["d35d6433"]


def test_of_very_many_rows_the_first_are_shown_and_the_page_says_so() -> None:
    """As of the differences between 200 networks, of which there are 82,012."""
    loader = jinja2.Environment(loader=jinja2.PackageLoader("pipeline.report", "."), autoescape=True)

    def page_of(rows: int) -> str:
        shown = show(pd.DataFrame({"loss": np.arange(rows)}), None, ())
        macros: Any = loader.get_template("macros.html.j2").make_module({"captions": {"x": ""}, "tables": {"x": shown}})
        return str(macros.rows_of(shown, "x"))

    assert "The first 2,000 of 2,003 rows; all are in the file." in page_of(MOST_ROWS + 3)
    assert page_of(MOST_ROWS + 3).count("<tr>") == 1 + MOST_ROWS
    assert "The first" not in page_of(MOST_ROWS)


def test_a_column_is_sorted_by_what_a_browser_reads_as_numbers() -> None:
    """Also by the infinite rank count of a law; true and false are words."""
    keys = {name: [cell.key for cell in show(pd.DataFrame({name: values}), None, ()).columns[0].cells]
            for name, values in {"value": [2.0, np.inf], "on_front": [True, False]}.items()}  # fmt: skip
    assert keys == {"value": [2.0, np.inf], "on_front": [None, None]}
    loader = jinja2.Environment(loader=jinja2.PackageLoader("pipeline.report", "."), autoescape=True)
    shown = show(pd.DataFrame({"value": [2.0, np.inf, -np.inf]}), None, ())
    macros: Any = loader.get_template("macros.html.j2").make_module({"captions": {"x": ""}, "tables": {}})
    assert re.findall('data-key="(.*?)"', str(macros.rows_of(shown, "x"))) == ["2.0", "Infinity", "-Infinity"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.25e-5, "4.25 \N{MULTIPLICATION SIGN} 10⁻⁵"), (-1.2e-12, "-1.20 \N{MULTIPLICATION SIGN} 10⁻¹²"), (0.0, "0"),
     (0.12344, "0.1234"), (13980.4, "13980"), (9999.7, "10000"), (1234.6, "1235"), (7.0, "7"), (-0.0, "0"),
     (float("inf"), "inf"), (float("nan"), ""), (3, "3"), ("a", "a"), (True, "yes"), (False, "no")],
)  # fmt: skip
def test_numbers_are_written_as_in_a_paper(value: object, text: str) -> None:
    assert text_of("mean", value) == text


def test_measures_have_the_decimals_that_their_table_names() -> None:
    """So that the numbers of a column stand below each other; a bias that rounds to 0 has no sign."""
    biases = pd.DataFrame({"model": ["a", "b", "c", "d"], "bias_lung": [-0.03194, 0.01324, -5.186, -2e-5]})
    assert texts(show(biases, None, ()).columns)["lung bias (HU)"] == ["-0.03", "0.01", "-5.19", "0.00"]
    assert [text_of(name, 1.0) for name in ("noise_sd", "sharpness", "ssim_3d")] == ["1.00", "1.000", "1.0000"]
    assert {text_of(name, 40.0) for name in ("rmse_hu", "rmse_hu_mean", "rmse_hu_sd")} == {"40.00"}
    assert [text_of("rmse_change", -2e-4), text_of("lost", -2e-4)] == ["+0.0 %", "0.0 %"]


def test_units_stand_in_the_heading() -> None:
    assert heading("training_seconds") == "training (s)"
    assert heading("seconds") == "seconds"
    assert heading("rmse_low_hu") == "rmse low (HU)"
    assert heading("rmse_hu") == "RMSE (HU)"
    assert heading("mse") == "mse"  # the numbers of such a column are not in the unit of the measure's title
    assert (heading("peak_bytes"), text_of("peak_bytes", 2**30)) == ("peak (GiB)", "1.00")


def test_data_sets_have_mean_sd_and_interval_in_the_measures_unit() -> None:
    measured = {f"{measure.name}_{part}": [number, np.nan] for measure in MEASURES
                for part, number in (("mean", 5e-4), ("sd", 2e-4), ("low", 3e-4), ("high", 8e-4))}  # fmt: skip
    table = pd.DataFrame(
        {"model": ["a", "b"], "part": "test", "dataset": ["x", "y"], "scans": 9, "patients": 8, **measured}
    )
    cells = texts(show_datasets(table, ()).columns)
    assert cells["MSE (10⁻⁴)"] == ["5.000 ± 2.000 [3.000, 8.000]", ""]
