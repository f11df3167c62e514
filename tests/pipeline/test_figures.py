"""Figures of a report: what they draw, and their files."""

import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from pipeline.report.captions import TABLE_CAPTIONS
from pipeline.report.doses import doses_table
from pipeline.report.figures import FIGURES, draw_all
from pipeline.report.figures.fig4 import draw_accuracy, draw_time
from pipeline.report.figures.networks import draw_networks
from pipeline.report.figures.pictures import draw_differences, draw_slices
from pipeline.report.figures.quality import draw_bias, draw_sharpness
from pipeline.report.figures.scaling import draw_attribution, draw_projection, draw_speed_up
from pipeline.report.figures.style import GREY, letter, lines, new_figure, styled
from pipeline.report.results import NothingToDraw, Results
from pipeline.report.write import collect
from pipeline.scaling.analysis import speed_up
from pipeline.settings.cells import cells_of
from pipeline.settings.names import FORMATS
from tests.pipeline.runs import fill, settings_of
from tests.pipeline.study_cells import cells as study_cells


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of a study whose analysis has all that figures can show."""

    grid = {"slices": [16, 32], "ranks": [1, 2, 4], "transfer": ["none", "zero"], "seeds": [0, 1]}
    settings = settings_of(study={**grid, "control_steps": 30})
    cells, folder = cells_of(settings), tmp_path_factory.mktemp("run")
    ids = [cell.id for cell in cells]
    fill(folder, cells, ids, lines=40)
    states = dict.fromkeys(ids, ("done", ""))
    results = collect(folder, settings, cells, states, ["low-dose", *ids], pd.DataFrame())
    several = pd.concat([results.tables["quality"].assign(dose=dose) for dose in (0.05, 0.25)])
    trained = [cells[0].model_copy(update={"training": cells[0].training.model_copy(update={"doses": (0.25,)})})]
    doses = doses_table(several, trained, (0.05, 0.25))
    return replace(results, tables={**results.tables, "quality_doses": doses})


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory, results: Results) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "figures"
    assert not [figure for figure in draw_all(results, folder) if figure.missing]
    return folder


@pytest.mark.slow
def test_every_figure_is_drawn_as_png_svg_and_pdf_and_again_the_same(
    tmp_path: Path, results: Results, figures: Path
) -> None:
    files = {path.name: path.read_bytes() for path in figures.iterdir()}
    assert set(files) == {f"{name}.{ending}" for name in FIGURES for ending in FORMATS}
    shutil.copytree(figures, tmp_path / "figures")
    list(draw_all(results, tmp_path / "figures"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()} == files


@pytest.mark.slow
def test_figures_have_the_formats_of_the_settings_and_the_one_that_the_page_shows(
    tmp_path: Path, results: Results, figures: Path
) -> None:
    folder = tmp_path / "figures"
    shutil.copytree(figures, folder)
    drawn = list(draw_all(results, folder, formats=("pdf",)))
    assert all(set(figure.formats) == {"pdf", figure.figure.shown} for figure in drawn)
    left = {path.name for path in folder.iterdir()}
    assert left == {f"{figure.path.name}.{ending}" for figure in drawn for ending in figure.formats}
    assert all((folder / name).read_bytes() == (figures / name).read_bytes() for name in left)


@pytest.mark.slow
def test_pdf_has_fonts_that_journals_take_and_no_date(figures: Path) -> None:
    for path in figures.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        assert b"/FontFile2" in content  # TrueType, which is embedded as Type 42
        assert b"/Type3" not in content
        assert b"CreationDate" not in content


@pytest.mark.parametrize("counts", [[32, 16], [128, 8, 16], [8, 16, 24, 32, 64, 128]])
def test_panels_and_lines_are_in_the_order_of_numbers(results: Results, counts: list[int]) -> None:
    cells = results.tables["cells"]
    copies = [cells[cells["slices"] == 16].assign(slices=count) for count in counts]
    for draw in (draw_time, draw_accuracy):
        figure = Figure()
        draw(figure, replace(results, tables={**results.tables, "cells": pd.concat(copies)}))
        titles = [ax.get_title("left").split(") ")[1] for ax in figure.axes]
        assert titles == [f"{count} slices" for count in sorted(counts)]
    table = pd.concat(copies)
    assert [label for label, _ in lines(table, ["slices"])] == [f"{count} slices" for count in sorted(counts)]


def test_marks_of_trainings_of_nearly_the_same_time_are_whole() -> None:
    """The longest stands as far below the end of the axis as where times reach from 0 on."""
    trained = study_cells({1: 100, 2: 95})
    figure = new_figure()
    draw_time(figure, Results({"cells": trained}, pd.DataFrame(), pd.DataFrame(), None))
    assert list(figure.axes[0].get_ylim()) == pytest.approx([0, 106])


@pytest.mark.slow
def test_no_line_leaves_its_panel(results: Results) -> None:
    for name, figure in FIGURES.items():
        canvas = Figure()
        figure.draw(canvas, results)
        for ax in canvas.axes:
            low, high = sorted(ax.get_ylim())
            for line in (line for line in ax.lines if line.get_transform() == ax.transData):
                heights = np.asarray(line.get_ydata(), float)
                heights = heights[np.isfinite(heights)]
                assert ((low <= heights) & (heights <= high)).all(), (name, line.get_label())


@pytest.mark.slow
def test_every_table_and_figure_says_what_its_intervals_are(results: Results) -> None:
    for name, table in results.tables.items():
        if name in TABLE_CAPTIONS and name != "quality" and any(str(column).endswith("_low") for column in table):
            assert "95 %" in TABLE_CAPTIONS[name], name
            assert re.search(r"bootstrap|Student|over the units", TABLE_CAPTIONS[name]), name
    for name, figure in FIGURES.items():
        canvas = Figure()
        figure.draw(canvas, results)
        if any(isinstance(artist, PolyCollection) for ax in canvas.axes for artist in ax.collections):
            assert re.search(r"\b([Bb]ands?|[Bb]ars?)\b", figure.caption), name


@pytest.mark.slow
def test_a_figure_that_can_no_longer_be_drawn_goes(tmp_path: Path, results: Results, figures: Path) -> None:
    shutil.copytree(figures, tmp_path / "figures")
    tables = {name: table if name == "quality" else table.iloc[:0] for name, table in results.tables.items()}
    without = Results(tables, results.curves.iloc[:0], results.judged.iloc[:0], None)
    drawn = list(draw_all(without, tmp_path / "figures"))
    missing = {figure.path.name: figure.missing for figure in drawn if figure.missing}
    assert set(missing) == set(FIGURES) - {"bias", "sharpness"}
    assert "no control arm was trained" in missing["attribution"]
    left = {path.name for path in (tmp_path / "figures").iterdir()}
    assert left == {f"{name}.{ending}" for name in ("bias", "sharpness") for ending in FORMATS}


def test_disturbed_and_impossible_points_are_marked_and_scenarios_dashed(results: Results) -> None:
    speed = results.tables["speedup"].assign(disturbed="", impossible="")
    speed.loc[1, ["disturbed", "impossible"]] = ["3d-s16-r2", "above 100 %"]
    forecast = results.tables["projection"]
    marked = Results({**results.tables, "speedup": speed}, results.curves, results.judged, None)
    figure = new_figure()
    draw_speed_up(figure, marked)
    assert {"disturbed by other work", "above 100 %: impossible"} <= legend_of(figure)
    for ax in figure.axes:
        hollow = [np.asarray(line.get_xdata()) for line in ax.lines if line.get_markerfacecolor() == "white"]
        assert np.concatenate(hollow).tolist() == [2]
        assert [text.get_text() for text in ax.texts] == ["!"]
    plain = new_figure()
    draw_speed_up(plain, results)
    assert not {"disturbed by other work", "above 100 %: impossible"} & legend_of(plain)
    figure = new_figure()
    draw_projection(figure, marked)
    assert {"disturbed by other work", "scenario, not forecast"} <= legend_of(figure)
    assert all(part in figure.axes[0].texts[-1].get_text() for part in forecast["assumed"].iloc[0].split("; "))
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--" and line.get_color() != GREY]
    farthest = forecast.loc[forecast["kind"] == "scenario", "ranks"]
    assert dashed
    assert all(set(farthest) <= set(np.asarray(line.get_xdata()).tolist()) for line in dashed)


TWO_TO_FOUR = 19447 / 11297  # the paper's seconds with 16 slices


@pytest.mark.parametrize(("ranks", "expected"), [((2, 4), [[1, TWO_TO_FOUR], [100, 50 * TWO_TO_FOUR]]), ((8, 16), [])])
def test_the_papers_marks_are_over_the_baseline_of_the_lines(ranks: tuple[int, int], expected: list[float]) -> None:
    """Over one rank they would stand above the ideal of a study that begins with two."""
    trained = study_cells({count: 100 / count for count in ranks})
    speed = speed_up(trained, pd.DataFrame(columns=["cell", "epoch", "seconds", "samples"]))
    figure = new_figure()
    draw_speed_up(figure, Results({"speedup": speed}, pd.DataFrame(), pd.DataFrame(), None))
    marks = [line for ax in figure.axes for line in ax.lines if line.get_marker() == "x"]
    assert [np.asarray(line.get_ydata()).tolist() for line in marks] == [pytest.approx(heights) for heights in expected]


@pytest.mark.parametrize(
    ("seconds", "ticks"),
    [({1: 10, 2: 25, 4: 30}, ["0.25", "0.5", "1", "2", "4"]), ({2: 8, 4: 4, 8: 3}, ["1", "2", "4"])],
)
def test_the_axis_of_speed_up_has_numbers_where_the_lines_are(seconds: dict[int, float], ticks: list[str]) -> None:
    """Also below 1, where more ranks were slower, and at 1 where the fewest ranks are two."""
    speed = speed_up(study_cells(seconds), pd.DataFrame(columns=["cell", "epoch", "seconds", "samples"]))
    figure = new_figure()
    draw_speed_up(figure, Results({"speedup": speed}, pd.DataFrame(), pd.DataFrame(), None))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ticks


def test_the_axis_of_a_forecast_goes_below_1_with_its_lines(results: Results) -> None:
    slower = {name: results.tables[name].copy() for name in ("speedup", "projection")}
    for table in slower.values():
        table["speed_up"] *= np.where(table["ranks"] > 1, 0.05, 1)
    figure = new_figure()
    draw_projection(figure, replace(results, tables={**results.tables, **slower}))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:5] == ["0.0625", "0.125", "0.25", "0.5", "1"]
    assert labels[-1] == "4096"


def test_trainings_on_unlike_machines_are_lines_of_their_own() -> None:
    """Joined, the 1 of the second baseline would be read as a speed-up over the first."""
    trained = pd.concat([
        study_cells({1: 8, 2: 4}, device="A100"), study_cells({4: 3, 8: 2}, alike="y", device="H100"),
        study_cells({16: 1}, alike="z", device="H100", torch="3"),
    ])  # fmt: skip
    speed = speed_up(trained, pd.DataFrame(columns=["cell", "epoch", "seconds", "samples"]))
    figure = new_figure()
    draw_speed_up(figure, Results({"speedup": speed}, pd.DataFrame(), pd.DataFrame(), None))
    drawn = {str(line.get_label()): np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines}
    assert {label: ranks for label, ranks in drawn.items() if "100" in label} == {
        "A100": [1, 2], "H100": [4, 8], "paper, 16 slices, A100": [1, 2, 4],
    }  # fmt: skip
    figure = new_figure()
    draw_time(figure, Results({"cells": trained}, pd.DataFrame(), pd.DataFrame(), None))
    lines_of = [np.asarray(line.get_xdata()).tolist() for line in figure.axes[0].lines if line.get_color() == GREY]
    assert lines_of == [[1, 2], [4, 8], [16]]


@pytest.mark.parametrize(("work", "ideal"), [("strong", [8, 4, 2]), ("weak", [8, 8, 8])])
def test_the_ideal_time_of_weak_scaling_does_not_fall(work: str, ideal: list[float]) -> None:
    figure = new_figure()
    trained = study_cells({1: 8, 2: 8.2, 4: 8.5}, work=work)
    draw_time(figure, Results({"cells": trained}, pd.DataFrame(), pd.DataFrame(), None))
    drawn = next(line for line in figure.axes[0].lines if line.get_label() == "ideal")
    assert np.asarray(drawn.get_ydata()).tolist() == ideal


def test_many_lines_are_told_apart_and_leave_the_panels_their_height(results: Results) -> None:
    speed, networks = results.tables["speedup"], results.tables["networks"]
    copies = [speed.assign(epochs=epochs) for epochs in range(1, 7)]
    many = replace(results, tables={**results.tables, "speedup": pd.concat(copies)})
    heights = []
    for shown in (results, many):
        with styled():
            figure = new_figure()
            draw_speed_up(figure, shown)
            figure.draw_without_rendering()
        heights.append(figure.axes[0].get_window_extent().height)
    assert heights[1] == pytest.approx(heights[0], rel=0.15)
    figure = new_figure()
    draw_networks(figure, results)
    assert len(legend_of(figure)) == (networks["hours_of"] != "").sum() == 13


def test_what_no_scan_has_is_not_drawn_as_if_it_were_zero(results: Results) -> None:
    quality = results.tables["quality"]
    figure = new_figure()
    draw_bias(figure, replace(results, tables={**results.tables, "quality": quality.assign(bias_bone=np.nan)}))
    said = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert said == [[], [], ["no such tissue"]]
    some = quality.assign(noise_sd=quality["noise_sd"].where(quality["model"] != "2d"))
    figure = new_figure()
    draw_sharpness(figure, replace(results, tables={**results.tables, "quality": some}))
    assert "low-dose" in legend_of(figure)
    assert "2d" not in legend_of(figure)
    with pytest.raises(NothingToDraw, match="uniform soft tissue"):
        draw_sharpness(
            new_figure(), replace(results, tables={**results.tables, "quality": quality.assign(noise_sd=np.nan)})
        )


LONG = "a_network_whose_id_has_32_signs_"


@pytest.mark.slow
def test_long_names_of_many_networks_stay_inside_their_figure(results: Results) -> None:
    cells, networks = results.tables["cells"], results.tables["networks"]
    alone = cells[(cells["slices"] == 16) & (cells["transfer"] == "zero") & (cells["arm"] == "full")]
    copies = [alone.assign(network=f"{LONG[:-2]}{number:02}") for number in range(10)]
    tables = {**results.tables, "cells": pd.concat(copies),
              "networks": networks.assign(cell=LONG + "-" + networks["cell"].astype(str))}  # fmt: skip
    for draw in (draw_time, draw_accuracy, draw_networks):
        with styled():
            figure = new_figure()
            draw(figure, replace(results, tables=tables))
            figure.draw_without_rendering()
        (legend,) = figure.legends
        box, panels = legend.get_window_extent(), [ax.get_window_extent() for ax in figure.axes]
        assert box.x0 >= 0, draw
        assert box.x1 <= figure.bbox.width, draw
        assert not any(box.overlaps(panel) for panel in panels), draw
        assert not any(ax.get_legend() for ax in figure.axes), draw


def test_a_line_looks_the_same_in_each_panel(results: Results) -> None:
    """Panels share one legend: a line that is missing in a panel leaves its colour to no other."""
    cells = results.tables["cells"]
    cells = cells[(cells["slices"] == 32) | (cells["transfer"] == "zero")]
    for draw in (draw_time, draw_accuracy):
        figure = new_figure()
        draw(figure, replace(results, tables={**results.tables, "cells": cells}))
        looks: dict[str, set[str]] = {}
        for line in (line for ax in figure.axes for line in ax.lines):
            looks.setdefault(str(line.get_label()), set()).add(f"{line.get_color()} {line.get_marker()}")
        named = {label: kinds for label, kinds in looks.items() if not label.startswith("_")}
        assert {label.split(", ")[-1] for label in named} - {"ideal"} == {"transfer none", "transfer zero"}
        assert all(len(kinds) == 1 for kinds in named.values()), named


@pytest.mark.parametrize("hours", [(2.8e-4, 5.6e-4), (0.4, 0.45), (0.07, 9.0), (3e-4, 40.0)])
def test_numbers_below_an_axis_do_not_run_into_one_another(results: Results, hours: tuple[float, float]) -> None:
    networks = results.tables["networks"].query("hours_of != ''").iloc[:2].assign(total_hours=hours)
    with styled():
        figure = new_figure()
        draw_networks(figure, replace(results, tables={**results.tables, "networks": networks}))
        figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].xaxis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [tick.label1.get_window_extent() for tick in ticks]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_long_names_above_images_do_not_run_into_one_another(results: Results) -> None:
    assert results.stacks
    images = {f"3D-DDnet ({LONG}-s16-r{number})": results.stacks.full for number in range(4)}
    for draw in (draw_slices, draw_differences):
        with styled():
            figure = new_figure()
            draw(figure, replace(results, stacks=replace(results.stacks, images=images)))
            figure.draw_without_rendering()
        boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.images]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes)), draw


def test_the_front_of_hours_does_not_join_gpus_and_cpus(results: Results) -> None:
    table = results.tables["networks"].query("hours_of != ''").iloc[:4]
    table = table.assign(hours_of=["CPU", "CPU", "GPU", "GPU"], total_hours=[9, 8, 2, 1], on_front=True)
    figure = new_figure()
    draw_networks(figure, replace(results, tables={**results.tables, "networks": table}))
    fronts = [line for line in figure.axes[0].lines if line.get_color() == GREY]
    assert [np.asarray(line.get_xdata()).tolist() for line in fronts] == [[8, 9], [1, 2]]


def test_control_arms_that_were_disturbed_are_not_said_to_be_untrained(results: Results) -> None:
    """As on a shared machine, where other work disturbs all of them."""
    disturbed = results.tables["attribution"].assign(lost=np.nan, disturbed="3d-s16-r2-silent")
    with pytest.raises(NothingToDraw, match="not done, or was disturbed"):
        draw_attribution(new_figure(), replace(results, tables={**results.tables, "attribution": disturbed}))


def test_a_bar_says_what_was_not_measured(results: Results) -> None:
    """Without an arm its causes are unknown, and the bar would pass for one of less loss."""
    table = results.tables["attribution"]
    lost = table["lost"].mask((table["ranks"] == 4) & (table["cause"] == "contention"))
    figure = new_figure()
    draw_attribution(figure, replace(results, tables={**results.tables, "attribution": table.assign(lost=lost)}))
    named = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [name.split("\n")[1:] for name in named] == 2 * [[], [], ["not measured: contention"]]
    unknown = table.assign(lost=table["lost"].mask(table["ranks"] == 4))
    figure = new_figure()
    draw_attribution(figure, replace(results, tables={**results.tables, "attribution": unknown}))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][2].endswith("4 ranks\nnot measured")


def test_names_as_long_as_settings_allow_are_whole_and_beside_each_other(results: Results) -> None:
    """A network's id has up to 32 letters, a data set's name 64."""
    model, dataset = "n" * 32 + "-s128-r64-window-repeat-seed12", "d" * 64
    quality = results.tables["quality"].replace({"model": {"3d-s16-r1": model}})
    results = replace(
        results, tables={**results.tables, "quality": quality}, judged=results.judged.assign(dataset=dataset)
    )
    with styled():
        bias, accuracy = new_figure(), new_figure()
        draw_bias(bias, results)
        draw_accuracy(accuracy, results)
        for figure in (bias, accuracy):
            figure.draw_without_rendering()
        titles = [ax._left_title.get_window_extent() for ax in bias.axes]  # type: ignore[attr-defined]
        (legend,) = accuracy.legends
        assert all(left.x1 < right.x0 for left, right in pairwise(titles))
        assert titles[-1].x1 < bias.bbox.width
        assert min(label.get_window_extent().x0 for label in bias.axes[0].get_yticklabels()) > 0
        assert legend.get_window_extent().x0 > 0
        assert legend.get_window_extent().x1 < accuracy.bbox.width


def test_panels_beyond_z_have_two_letters() -> None:
    ax = new_figure().subplots()
    titles = []
    for number in (0, 25, 26, 53):
        letter(ax, number, "")
        titles.append(ax.get_title("left").strip())
    assert titles == ["(a)", "(z)", "(aa)", "(bb)"]


def legend_of(figure: Figure) -> set[str]:
    return {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def test_without_two_nodes_the_page_says_why_there_is_no_projection(results: Results) -> None:
    reason = "all trainings ran on one node"
    table = results.tables["projection"].iloc[:1].assign(ranks=np.nan, speed_up=np.nan, reason=reason)
    without = Results({**results.tables, "projection": table}, results.curves, results.judged, None)
    with pytest.raises(NothingToDraw, match=reason):
        draw_projection(new_figure(), without)
