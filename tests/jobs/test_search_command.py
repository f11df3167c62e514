"""The command ``search`` before anything runs."""

import sys
from pathlib import Path

import pytest

from jobs.engine.marker import Marker, State
from jobs.engine.run_folder import RunFolder
from jobs.engine.stage import Ref
from jobs.stages.graph import graph_of, search_of, started_of
from tests.command_line import CONFIG, quarterdose_within
from tests.pipeline.runs import settings_of
from tests.scans import chest, write_nifti

SOURCE = "{kind: nifti, path: scans}"
SEARCH = "search={space: {study.training.warmup: {uniform: [0, 0.5]}}, trials: 2, networks: [%s]}"


def said(folder: Path, *words: str) -> str:
    """What the command says where it refuses the settings."""
    (folder / "x.yaml").write_text(CONFIG.format(source=SOURCE))
    completed = quarterdose_within(folder, "search", "x.yaml", *(word for x in words for word in ("--set", x)))
    assert completed.returncode == 2
    assert len(completed.stderr.splitlines()) == 1
    return completed.stderr


def test_settings_without_a_search_are_refused_with_what_to_write(tmp_path: Path) -> None:
    assert "x.yaml: search is missing: say at least search: {space: {PATH: RANGE}}" in said(tmp_path)


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "run `pip install quarterdose[search]`" in said(tmp_path, SEARCH % "2d")


def test_options_of_a_network_that_starts_from_a_donor_do_not_fit_it(tmp_path: Path) -> None:
    search = "search={space: {networks.deep.options.width: {choice: [16, 32]}}, networks: [deep]}"
    networks = "networks={flat: {model: unet, dims: 2}, deep: {model: unet, dims: 3}}"
    message = said(tmp_path, search, networks)
    assert "search.space: networks.deep cannot start from 2D weights: add a 2D network of model unet" in message
    assert "or set study.transfer to none" in message


def test_a_look_at_all_items_has_those_of_the_run_and_of_the_search(tmp_path: Path) -> None:
    search = {"space": {"study.training.warmup": {"uniform": [0, 0.5]}}, "trials": 2, "networks": ["2d"]}
    folder = RunFolder.of(settings_of(runs=tmp_path, search=search))
    assert started_of(folder).stages.keys() == graph_of(folder).stages.keys()
    folder.search.mkdir(parents=True)
    stages, run = started_of(folder).stages, graph_of(folder).stages
    assert stages.keys() - run.keys() == {"search-1-1", "search-2-1", "search-summary"}
    assert {name: stages[name].items() for name in run} == {name: stage.items() for name, stage in run.items()}


@pytest.mark.parametrize("state", ["failed", "done"])
def test_a_trial_waits_for_the_weights_that_it_starts_from_and_not_for_earlier_rungs(
    tmp_path: Path, state: State
) -> None:
    search = {"space": {"study.training.warmup": {"uniform": [0, 0.5]}}, "trials": 2, "generation": 1,
              "networks": ["3d"], "halving": {"rungs": [0.5]}}  # fmt: skip
    graph = search_of(RunFolder.of(settings_of(runs=tmp_path, search=search)))
    ends: dict[Ref, State] = {("split", "split"): "done", ("transfer", "3d-zero"): state,
                              ("search-1-1", "3d-t0000"): "failed"}  # fmt: skip
    for (stage, item), end in ends.items():
        graph.stages[stage].markers.write(item, Marker(end, {}, 1.0, 1.0, "", {}))
    reasons = [str(graph.decide_item(graph.stages[stage], item).reason)
               for stage, item in (("search-1-2", "3d-t0000"), ("search-2-1", "3d-t0001"))]  # fmt: skip
    assert set(reasons) == {"never run" if state == "done" else "blocked: transfer/3d-zero did not succeed"}


def test_options_that_the_settings_cannot_check_are_refused_before_any_trial(tmp_path: Path) -> None:
    pytest.importorskip("monai")
    networks = "networks={a: {model: 'monai:UNet', dims: 2, options: {channels: [4, 8], strides: %s}}}"
    search = "search={space: {networks.a.options.dropout: {uniform: [0, 1.5]}}}"
    grid, refusal = "study.network=[a]", "networks.a.options.dropout: monai:UNet takes no such options in 2 dimensions"
    assert f"search.space: {refusal}: " in said(tmp_path, search, networks % "[2]", grid)
    message = said(tmp_path, search, networks % "[2], chanels: 1", grid)
    assert "quarterdose: networks.a: monai:UNet has no option chanels; valid: channels" in message


def test_status_shows_the_run_of_the_found_settings_in_the_folder_of_their_search(tmp_path: Path) -> None:
    """Found settings have no search, but its files lie there."""
    folder = RunFolder.of(settings_of(runs=tmp_path))
    folder.search.mkdir(parents=True)
    folder.record()
    completed = quarterdose_within(tmp_path, "status", str(folder.root))
    assert completed.returncode == 0, completed.stderr
    assert {line.split()[0] for line in completed.stdout.splitlines()[1:]} == set(graph_of(folder).stages)


@pytest.mark.parametrize(("network", "donors"), [("2d", 0), ("3d", 2)])
def test_a_dry_run_lists_the_trials_and_what_they_start_from(tmp_path: Path, network: str, donors: int) -> None:
    write_nifti(tmp_path / "scans" / "toy.nii.gz", chest(100, side=64))
    (tmp_path / "x.yaml").write_text(CONFIG.format(source=SOURCE))
    completed = quarterdose_within(tmp_path, "search", "x.yaml", "--dry-run", "--set", SEARCH % network)
    assert completed.returncode == 0, completed.stderr
    items = [line.split()[1].rstrip(":") for line in completed.stdout.splitlines() if line.startswith("run ")]
    starts = ["train/2d", "transfer/3d-zero"][:donors]
    trials = [f"search-{number}-1/{network}-t000{number - 1}" for number in (1, 2)]
    assert items[1:] == ["split/split", *starts, *trials, "search-summary/summary"]
    assert not (tmp_path / "runs").exists()
