"""What a search writes of its trials: tables, figures, page, journal and settings file."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from playwright.sync_api import Browser

from pipeline.report.figures.search import draw_best_so_far, draw_parallel_coordinates
from pipeline.report.figures.style import new_figure, styled
from pipeline.report.results import Results
from pipeline.report.search import SEARCH_FIGURES, write_search
from pipeline.search.asking import ask
from pipeline.search.importance import importance_table
from pipeline.search.journal import write_journal
from pipeline.search.outcome import found_yaml, networks_table, outcome_lines, trials_table
from pipeline.search.trials import RungResult, Trial, TrialState
from pipeline.settings.names import FORMATS
from pipeline.settings.run import RunSettings
from tests.pipeline.pages import HOSTILE
from tests.pipeline.runs import settings_of

RUN = settings_of(
    networks={name: {"model": "ddnet", "dims": 2} for name in ("a", "b")}, study={"transfer": "none"},
    search={
        "space": {
            "study.training.learning_rate": {"log": [1e-5, 1e-1]}, "study.training.warmup": {"uniform": [0, 0.5]},
            "networks.b.training.norm": {"choice": ["group", "frozen"]}, "networks.b.training.batch": {"int": [1, 4]},
        },
        "trials": 24, "sampler": "random", "halving": {"rungs": [0.5], "reduction": 2},
    },
)  # fmt: skip


def trials_of(network: str, count: int = 24) -> list[Trial]:
    """Trials whose error has its minimum at a rate of 1e-3, and that diverge above 3e-2; the upper half is pruned."""
    assert RUN.search
    trials = []
    for number, parameters in enumerate(ask(RUN.search, network, range(count), [])):
        rate = float(parameters["training.learning_rate"] or 0)
        error = 0.5 + 0.1 * abs(math.log10(rate) + 3)
        results = tuple(RungResult(rung, 8 * rung, error / rung, 0.5 * rung, 0.25 * rung, 1.7e9) for rung in (1, 2))
        if rate > 3e-2:
            trials.append(Trial(network, number, 1, parameters, (), "failed", 0.1, "<b>diverged</b>"))
        elif error > 0.6:
            trials.append(Trial(network, number, 1, parameters, results[:1], "pruned", 0.5))
        else:
            trials.append(Trial(network, number, 1, parameters, results, "complete", 1.0))
    return trials


TRIALS = [*trials_of("a"), *trials_of("b")]


def test_the_table_has_a_row_a_trial_with_its_parameters() -> None:
    table = trials_table(TRIALS)
    assert len(table) == 48
    for row, trial in zip(table.to_dict("records"), TRIALS, strict=True):
        assert (row["network"], row["trial"], row["state"], row["hours"]) == (
            trial.network, trial.number, trial.state, trial.hours,
        )  # fmt: skip
        assert {name: row[name] for name in trial.parameters} == trial.parameters
    assert table["training.norm"][table["network"] == "a"].isna().all()
    assert (table["value"][table["state"] == "failed"]).isna().all()
    assert set(table["rung"].dropna()) == {1, 2}


def test_networks_have_what_they_took_beside_their_best() -> None:
    table = networks_table(RUN.searched, TRIALS).set_index("network")
    states = table[["complete", "pruned", "failed"]]
    assert states.to_numpy().sum(axis=1).tolist() == table["trials"].tolist() == [24, 24]
    assert table["hours"].tolist() == pytest.approx((states.to_numpy() @ np.array([1.0, 0.5, 0.1])).tolist())
    for network in "ab":
        complete = [trial for trial in TRIALS if trial.network == network and trial.state == "complete"]
        best = min(complete, key=lambda trial: trial.rungs[-1].value)
        assert table.loc[network, "best"] == best.number
        assert table.loc[network, "value"] == best.rungs[-1].value


def test_importance_beats_chance_where_one_setting_decides_and_there_are_enough_trials() -> None:
    assert RUN.search
    table = importance_table(RUN.search, RUN.searched, [*trials_of("a", 60), *trials_of("b", 7)])
    assert set(table["network"]) == {"a"}  # the other has too few
    rows = table.set_index("parameter")
    assert rows["importance"].sum() == pytest.approx(1)
    assert rows["importance"].idxmax() == "training.learning_rate"
    assert rows["importance"]["training.learning_rate"] > rows["chance"]["training.learning_rate"]
    assert rows["importance"]["training.warmup"] < rows["chance"]["training.warmup"]


def results_of(run: RunSettings, trials: Sequence[Trial]) -> Results:
    assert run.search
    ranges = [{"network": network, "parameter": name, "kind": setting.kind, "values": setting.values}
              for network in run.searched for name, setting in run.search.space_of(network).items()]  # fmt: skip
    tables = {"trials": trials_table(trials), "ranges": pd.DataFrame(ranges)}
    return Results(tables, pd.DataFrame(), pd.DataFrame(), None)


def test_the_best_so_far_was_trained_to_its_end() -> None:
    """As in the table of networks; a pruned trial, and one that failed later, may have been better on its last rung."""
    values: list[tuple[TrialState, float]] = [
        ("pruned", 0.4),
        ("complete", 0.7),
        ("failed", 0.3),
        ("complete", 0.6),
        ("pruned", 0.5),
    ]
    trials = [Trial("a", number, 1, {}, (RungResult(1, 8, value, 1.0, 1.0),), state, 1.0)
              for number, (state, value) in enumerate(values)]  # fmt: skip
    figure = new_figure()
    draw_best_so_far(figure, results_of(RUN, trials))
    _, best, others, complete = (np.asarray(line.get_ydata()) for line in figure.axes[0].lines)
    np.testing.assert_allclose(best, [np.nan, 70, 70, 60, 60])
    np.testing.assert_allclose(others, [40, np.nan, 30, np.nan, 50])
    np.testing.assert_allclose(complete, [np.nan, 70, np.nan, 60, np.nan])
    assert min(best[1:]) == pytest.approx(100 * networks_table(["a"], trials)["value"][0])


def test_all_of_thirty_networks_stand_in_the_legend() -> None:
    trials = [Trial(f"n{number}", 0, 1, {}, (RungResult(1, 8, 0.5, 1.0, 1.0),), "complete", 1.0)
              for number in range(30)]  # fmt: skip
    with styled():
        figure = new_figure()
        draw_best_so_far(figure, results_of(RUN, trials))
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.legends[0].get_texts()]
    assert len(boxes) == 31
    assert min(box.y0 for box in boxes) > 0
    assert max(box.y1 for box in boxes) < figure.bbox.height


def test_many_settings_and_all_their_choices_can_be_read() -> None:
    space = {"learning_rate": {"log": [1e-5, 1e-1]}, "warmup": {"uniform": [0, 0.5]}, "accumulation": {"int": [1, 8]},
             "ms_ssim_weight": {"uniform": [0, 1]}, "batch": {"int": [1, 4]}, "flips": {"choice": [True, False]},
             "norm": {"choice": ["batch", "frozen", "group"]}}  # fmt: skip
    run = settings_of(networks={"a": {"model": "ddnet", "dims": 2}}, study={"transfer": "none"},
                      search={"space": {f"study.training.{name}": values for name, values in space.items()},
                              "trials": 8, "sampler": "random"})  # fmt: skip
    assert run.search
    trials = [Trial("a", number, 1, parameters, (RungResult(1, 8, 0.5, 1.0, 1.0),), "complete", 1.0)
              for number, parameters in enumerate(ask(run.search, "a", range(8), []))]  # fmt: skip
    with styled():
        figure = new_figure()
        draw_parallel_coordinates(figure, results_of(run, trials))
        figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) == 8
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert {"batch", "frozen", "group"} <= {text.get_text().strip() for text in figure.axes[0].texts}


@pytest.mark.slow
def test_the_page_shows_all_and_escapes_every_text(tmp_path: Path) -> None:
    write_search(tmp_path, RUN, TRIALS)
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {f"{name}.{ending}" for name in SEARCH_FIGURES for ending in FORMATS}
    page = (tmp_path / "index.html").read_text()
    assert page.count('src="data:image/svg+xml') == len(SEARCH_FIGURES)
    assert "default-src &#39;none&#39;" in page
    assert f"drawn by Optuna {optuna.__version__}." in page
    assert "<b>" not in page
    assert "&lt;b&gt;diverged" in page
    for line in outcome_lines(RUN, TRIALS):
        assert line.split(";")[0].replace("'", "&#39;") in page
    texts = pd.read_csv(tmp_path / "trials.csv", dtype=str, keep_default_na=False)
    assert set(texts["rung"]) == {"", "1", "2"}
    assert set(texts["steps"]) == {"", "8", "16"}
    for name in ("networks", "trials", "importance"):
        assert len(pd.read_csv(tmp_path / f"{name}.csv"))
        assert f'aria-label="Table: {name}"' in page


@pytest.mark.browser
def test_the_page_asks_for_nothing_and_its_tables_sort(browser: Browser, tmp_path: Path) -> None:
    write_search(tmp_path, RUN, [replace(trial, reason=HOSTILE) for trial in TRIALS])
    page, said = browser.new_page(), list[str]()
    page.on("console", lambda message: said.extend([message.text] * (message.type == "error")))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: said.extend([request.url] * (not request.url.startswith(("file:", "data:")))))
    page.goto((tmp_path / "index.html").as_uri())
    table = page.locator("[aria-label='Table: trials'] table")
    names = [name.split(" ↕")[0] for name in table.locator("th").all_inner_texts()]
    table.locator("th").nth(names.index("value")).get_by_role("button").click()
    cells = table.locator(f"tbody tr td:nth-child({names.index('value') + 1})").all_inner_texts()
    shown = [float(text) for text in cells if text]
    assert shown == sorted(shown)
    assert len(shown) == sum(bool(trial.rungs) for trial in TRIALS)
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert said == []
    page.close()


def test_null_beside_numbers_stays_null(tmp_path: Path) -> None:
    space = {"study.training.average": {"choice": [None, 0.1]}, "study.training.batch": {"choice": [1, 2]}}
    run = settings_of(networks={"a": {"model": "ddnet", "dims": 2}}, study={"transfer": "none"},
                      search={"space": space, "trials": 2})  # fmt: skip
    trials = [Trial("a", number, 1, {"training.average": average, "training.batch": batch},
                    (RungResult(1, 8, value, 1.0, 1.0),), "complete")
              for number, (average, batch, value) in enumerate([(None, 2, 0.5), (0.1, 1, 0.6)])]  # fmt: skip
    assert trials_table(trials)["training.average"].tolist() == [None, 0.1]
    write_search(tmp_path, run, trials)
    assert (tmp_path / "figures" / "parallel-coordinates.svg").exists()
    table = pd.read_csv(tmp_path / "trials.csv", dtype=str, keep_default_na=False)
    assert table[["training.average", "training.batch"]].to_numpy().tolist() == [["", "2"], ["0.1", "1"]]
    training = RunSettings.model_validate(yaml.safe_load(found_yaml(run, trials))).networks["a"].training
    assert (training.average, training.batch) == (None, 2)


def test_a_search_without_any_value_has_a_page_that_says_so(tmp_path: Path) -> None:
    failed = [trial for trial in TRIALS if trial.state == "failed"]
    write_search(tmp_path, RUN, failed)
    page = (tmp_path / "index.html").read_text()
    assert "none of " in page
    assert "No figure: no trial has a value" in page
    assert not list(tmp_path.glob("figures/best-so-far.*"))


def test_optuna_reads_the_journal(tmp_path: Path) -> None:
    assert RUN.search
    path = tmp_path / "journal.log"
    for _ in range(2):  # written anew each time
        write_journal(path, RUN.search, RUN.searched, TRIALS)
    storage = JournalStorage(JournalFileBackend(str(path)))
    assert sorted(study.study_name for study in storage.get_all_studies()) == ["a", "b"]
    for network in "ab":
        study, ours = optuna.load_study(study_name=network, storage=storage), trials_of(network)
        assert [trial.params for trial in study.trials] == [dict(trial.parameters) for trial in ours]
        assert study.best_trial.number == networks_table([network], ours)["best"][0]
        states = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
        assert [trial.state.name for trial in study.trials] == [states[trial.state] for trial in ours]
        assert study.trials[ours[0].number].intermediate_values == {x.rung: x.value for x in ours[0].rungs}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.log"]


def test_found_settings_change_the_best_parameters_and_nothing_else() -> None:
    text = found_yaml(RUN, TRIALS)
    settings, table = RunSettings.model_validate(yaml.safe_load(text)), networks_table(RUN.searched, TRIALS)
    expected = RUN.model_dump(exclude={"search"})
    for network, number in zip(table["network"], table["best"], strict=True):
        (best,) = (trial for trial in TRIALS if (trial.network, trial.number) == (network, number))
        for name, setting in best.parameters.items():
            expected["networks"][network]["training"][name.removeprefix("training.")] = setting
    assert settings.model_dump(exclude={"search"}) == expected
    assert text.startswith("# a: trial ")
    assert len(text.splitlines()) < 40
