"""Ranges, rungs and parameters of a search, without any training."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.search.asking import ask
from pipeline.search.cells import first_cell, trial_cell
from pipeline.search.halving import choose, last_epoch, rungs_of
from pipeline.search.trials import Parameters, RungResult, Trial, best_of
from pipeline.settings.search import SearchSettings
from pipeline.training.schedule import effective_batch, length_of
from tests.pipeline.runs import settings_of

SPACE = {
    "study.training.learning_rate": {"log": [1e-5, 1e-1]},
    "study.training.warmup": {"uniform": [0, 0.5]},
    "networks.unet.options.width": {"choice": [16, 32]},
    "networks.unet.training.warmup": {"uniform": [0.5, 1]},
    "networks.2d.training.batch": {"int": [1, 4]},
}


def search_of(**settings: Any) -> SearchSettings:
    return SearchSettings.model_validate({"space": SPACE, **settings})


def trial_of(number: int, parameters: Parameters, value: float, state: Any = "complete") -> Trial:
    result = RungResult(rung=1, steps=8, value=value, hours=1.0, cpu_hours=1.0, finished=0.0)
    return Trial("2d", number, 1, parameters, (result,), state)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"log": [1e-2, 1e-5]}, "log takes the lower end first"),
        ({"log": [0, 1]}, "log takes numbers above 0"),
        ({"uniform": [1, 1]}, "uniform takes the lower end first"),
        ({"int": [1.5, 3]}, "valid integer"),
        ({"int": [1, 2], "choice": [1]}, "write one of log, uniform, int and choice"),
        ({}, "write one of log, uniform, int and choice"),
        ({"choice": []}, "at least 1 item"),
        ({"choice": [1, 1]}, "choice has a value twice"),
        ({"normal": [0, 1]}, "Extra inputs"),
    ],
)
def test_ranges_that_are_none_are_refused(space: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        search_of(space={"study.training.learning_rate": space})


def test_ranges_keep_the_kinds_of_their_values_through_a_settings_file() -> None:
    """YAML reads 1e-5 as text."""
    search = search_of(space={"a": {"log": ["1e-5", 1]}, "b": {"choice": [True, 1, 1.5, "one", None]}})
    reloaded = SearchSettings.model_validate(search.model_dump(mode="json"))
    assert reloaded == search
    assert search.space["a"].values == (1e-5, 1.0)
    assert [*map(repr, reloaded.space["b"].values)] == ["True", "1", "1.5", "'one'", "None"]


def test_a_network_has_its_own_ranges_before_general_ones() -> None:
    flat, deep = (search_of().space_of(network) for network in ("2d", "unet"))
    assert list(flat) == ["training.learning_rate", "training.warmup", "training.batch"]
    assert list(deep) == ["training.learning_rate", "training.warmup", "options.width"]
    assert deep["training.warmup"].values == (0.5, 1)


@pytest.mark.parametrize(
    ("path", "values", "message"),
    [
        ("data.low_dose.seed", {"int": [0, 1]}, "search.space: data.low_dose.seed is no setting of a training: take"),
        ("study.options.width", {"int": [0, 1]}, "study.options.width is no setting of a training"),
        ("study.slices", {"choice": [16, 32]}, "study.slices is no setting of a training"),
        (
            "networks.moon.training.batch",
            {"int": [1, 2]},
            "moon.training.batch: there is no such network; networks has 2d, 3d",
        ),
        ("study.training.seed", {"int": [1, 2]}, "study.training.seed makes no training better or worse"),
        (
            "study.training.rate",
            {"int": [1, 2]},
            "search.space: networks.2d.training.rate is not a setting; valid here",
        ),
        (
            "study.training.warmup",
            {"uniform": [0, 2]},
            r"networks.2d.training.warmup: .* less than or equal to 1 \(got",
        ),
        ("study.training.batch", {"log": [1, 2.5]}, "networks.2d.training.batch: .* whole number"),
        ("networks.2d.training.norm", {"choice": ["group", "none"]}, "networks.2d.training.norm: Input should be"),
        ("networks.2d.training.norm", {"choice": ["batch"]}, "networks.3d.training.norm and networks.2d.training.norm"),
        ("networks.2d.options.moons", {"int": [1, 2]}, "networks.2d.options: moons: DDnet has no such option"),
        ("networks.2d.training.batch", {"int": [1, 2]}, "search.space has no setting of 3d: add one"),
        ("study.training.doses", {"choice": [0.1, 0.5]}, "study.training.doses changes on what trials are judged"),
        ("study.training.fresh", {"choice": [True]}, "study.training.fresh changes on what trials are judged"),
        ("study.training.crop", {"choice": [32, 64]}, "crop changes on what trials of 2d are judged: set"),
        ("study.training.batch", {"uniform": [1, 3]}, "whole number.*not all numbers between the ends are allowed"),
        ("study.training.batch", {"log": [1, 4]}, "whole number.*so list a choice of them"),
        (
            "study.training.batch",
            {"choice": [[1, 2], [2]]},
            r"choice\.0\W+Value error, Input should be a number, text, true, false or null",
        ),
    ],
)
def test_what_no_setting_takes_is_refused_in_one_sentence(path: str, values: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings_of(search={"space": {path: values}})


def test_whole_numbers_between_the_ends_are_tried_too() -> None:
    """96 and 32 are multiples of 16; so are the ends of the longer range, of which not all are tried."""
    for ends in ([32, 96], [32, 8192]):
        with pytest.raises(ValidationError, match=r"2d.training.crop: .*multiple of 16 \(got 33\): not all numbers"):
            settings_of(search={"space": {"study.training.crop": {"int": ends}}},
                        study={"training": {"validation": "scans"}})  # fmt: skip
    networks = {"2d": {"model": "ddnet", "dims": 2, "training": {"samples": 12}}}
    space = {"study.training.batch": {"int": [1, 4]}}
    assert settings_of(networks=networks, search={"space": space}).search
    with pytest.raises(ValidationError, match=r"samples 12 must be a multiple of .* = 5: not all numbers"):
        settings_of(networks=networks, search={"space": {"study.training.batch": {"int": [1, 6]}}})


def test_crops_are_searched_where_whole_scans_are_judged() -> None:
    study = {"training": {"validation": "scans"}}
    assert settings_of(study=study, search={"space": {"study.training.crop": {"choice": [32, 64]}}}).search


def test_epochs_that_a_grid_sets_are_not_searched() -> None:
    search = {"space": {"study.training.epochs": {"choice": [5, 10]}}}
    with pytest.raises(ValidationError, match=r"epochs has no effect on trials of 3d, .* own 8 epochs: leave study.ep"):
        settings_of(study={"epochs": 8}, search=search)
    assert settings_of(study={"epochs": 8}, search={**search, "networks": ["2d"]}).search


def test_networks_of_a_search_are_listed_once_and_have_all_ranges() -> None:
    search = {"space": {"networks.2d.training.batch": {"int": [1, 2]}}, "networks": ["2d", "2d"]}
    with pytest.raises(ValidationError, match="a network is listed twice"):
        settings_of(search=search)
    ranges = {"study.training.warmup": {"uniform": [0, 0.5]}, "networks.3d.training.batch": {"int": [1, 2]}}
    with pytest.raises(ValidationError, match=r"networks\.3d\.training\.batch: search\.networks has 2d alone"):
        settings_of(search={"space": ranges, "networks": ["2d"]})


def test_a_search_of_the_networks_that_it_names_needs_no_ranges_of_others() -> None:
    ranges = {"networks.2d.training.batch": {"int": [1, 2]}}
    assert settings_of(search={"space": ranges, "networks": ["2d"]}).searched == ("2d",)
    with pytest.raises(ValidationError, match=r"search\.networks: there is no network moon; networks has 2d, 3d"):
        settings_of(search={"space": ranges, "networks": ["moon"]})


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"trials": 5, "sampler": "random"}, [[5]]),
        ({"trials": 5, "sampler": "random", "budget_gpu_hours": 1}, [[2], [2], [1]]),
        ({"trials": 12, "sampler": "tpe", "halving": {}}, [[4, 2, 1]] * 3),
        ({"trials": 9, "sampler": "random", "halving": {"rungs": [0.1, 0.3], "reduction": 3}}, [[9, 3, 1]]),
        ({"trials": 7, "generation": 4, "halving": {"rungs": [0.5]}}, [[4, 2], [3, 1]]),
        ({"trials": 3, "generation": 8, "halving": {"reduction": 9}}, [[3, 1, 1]]),
    ],
)
def test_rungs_take_as_many_trials_as_the_reduction_says(settings: dict[str, Any], sizes: list[list[int]]) -> None:
    rungs = rungs_of(search_of(**settings))
    generations = [[rung for rung in rungs if rung.generation == number] for number in range(1, len(sizes) + 1)]
    assert [[rung.size for rung in generation] for generation in generations] == sizes
    assert [rung.share for rung in rungs if rung.number == len(sizes[0])] == [1.0] * len(sizes)
    numbers = [number for generation in generations for number in generation[0].trials]
    assert numbers == list(range(settings["trials"]))


def test_the_lowest_values_go_on_and_failed_trials_never() -> None:
    values = {0: 0.9, 1: None, 2: 0.4, 3: math.nan, 4: 0.4, 5: 0.5}
    assert choose(values, 2) == {2, 4}
    assert choose(values, 1) == {2}
    assert choose(values, 9) == {0, 2, 4, 5}
    assert choose({0: None}, 1) == set()


def test_a_share_of_a_training_is_whole_epochs_and_ends_in_a_validation() -> None:
    assert [last_epoch(share, 4, 1) for share in (0.01, 0.25, 0.26, 1.0)] == [1, 1, 2, 4]
    assert last_epoch(0.07, 100, 1) == 7
    assert [last_epoch(share, 10, 3) for share in (0.1, 0.3, 0.31, 0.95, 1.0)] == [3, 3, 6, 10, 10]
    assert last_epoch(0.5, 2, 5) == 2


@pytest.mark.parametrize("work", ["strong", "weak"])
def test_a_trial_takes_on_one_rank_the_steps_that_the_study_takes_on_several(work: str) -> None:
    training = {"batch": 2, "accumulation": 3, "work": work, "epochs": 4}
    run = settings_of(networks={"2d": {"model": "ddnet", "dims": 2, "ranks": 4, "training": training}},
                      study={"transfer": "none"})  # fmt: skip
    cell, trial = first_cell(run, "2d"), trial_cell(run, "2d", 7, {"training.learning_rate": 0.5}, 100)
    assert (trial.id, trial.ranks, trial.training.learning_rate) == ("2d-t0007", 1, 0.5)
    assert effective_batch(trial.training, 1) == effective_batch(cell.training, 4) == 24
    assert length_of(trial.training, 100, 1) == length_of(cell.training, 100, 4)


def parameters(numbers: Sequence[int], earlier: Sequence[Trial] = (), **settings: Any) -> list[Parameters]:
    return ask(search_of(**settings), "2d", numbers, earlier)


def test_random_parameters_depend_on_seed_network_and_number_alone() -> None:
    everything = parameters(range(8), sampler="random")
    separate = [parameters([number], [trial_of(0, everything[0], 1.0)], sampler="random")[0] for number in range(8)]
    assert everything == separate
    assert everything[:3] == parameters(range(3), sampler="tpe")  # its first generation
    assert parameters(range(8), sampler="random", seed=1) != everything
    assert len({row["training.learning_rate"] for row in everything}) == 8
    assert ask(search_of(), "unet", [0], [])[0]["training.learning_rate"] != everything[0]["training.learning_rate"]


def test_parameters_lie_in_their_ranges_with_their_kinds() -> None:
    drawn = parameters(range(200), sampler="random")
    rates = sorted(float(row["training.learning_rate"] or 0) for row in drawn)
    assert 1e-5 <= rates[0] < 1e-4
    assert 1e-2 < rates[-1] <= 1e-1
    assert 1e-3 / 3 < rates[100] < 3e-3  # the median is 1e-3 where powers of ten are as likely
    assert {row["training.batch"] for row in drawn} == {1, 2, 3, 4}
    assert {row["options.width"] for row in ask(search_of(), "unet", range(20), [])} == {16, 32}


def test_tpe_asks_the_same_of_the_same_results_and_closer_to_the_good_ones() -> None:
    """Of an error with one minimum, at a rate of 1e-3."""
    first = parameters(range(12), trials=20, generation=12)
    distance = [abs(math.log10(float(row["training.learning_rate"] or 0)) + 3) for row in first]
    earlier = [trial_of(number, row, distance[number]) for number, row in enumerate(first)]
    numbers = range(12, 20)
    asked = parameters(numbers, earlier, trials=20, generation=12)
    assert asked == parameters(numbers, earlier, trials=20, generation=12)
    assert asked != parameters(numbers, earlier[::-1][:6], trials=20, generation=12)
    closeness = [abs(math.log10(float(row["training.learning_rate"] or 0)) + 3) for row in asked]
    assert sum(closeness) / len(closeness) < 0.7 * sum(distance) / len(distance)


def test_tpe_keeps_away_from_what_failed() -> None:
    """All rates above 1e-3 diverge; the rest are as good as one another, within a hair."""
    first = parameters(range(24), trials=40, generation=24)
    rates = [float(row["training.learning_rate"] or 0) for row in first]
    earlier = [
        trial_of(number, row, 0.5 + 1e-6 * number, "failed" if rates[number] > 1e-3 else "complete")
        for number, row in enumerate(first)
    ]
    asked = [float(row["training.learning_rate"] or 0) for row in parameters(range(24, 40), earlier, trials=40)]
    assert sum(rate > 1e-3 for rate in asked) < 0.5 * len(asked) * sum(rate > 1e-3 for rate in rates) / len(rates) * 2


def test_the_best_is_the_lowest_of_those_trained_to_their_end() -> None:
    trials = [trial_of(0, {}, 0.5), trial_of(1, {}, 0.2, "pruned"), trial_of(2, {}, 0.4), trial_of(3, {}, 0.4)]
    best = best_of(trials)
    assert best
    assert best.number == 2
    assert best_of(trials[1:2]) is None
