import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.errors import UserError
from data_prep.settings_file import load_settings
from data_prep.volume import SIDE
from jobs.engine.run_folder import resolved_yaml
from pipeline.settings.cells import cells_of
from pipeline.settings.run import RunSettings
from pipeline.training.schedule import effective_batch, samples_per_epoch

MINIMAL = "name: x\ndata: {sources: [{kind: sample}]}\n"
CONFIGS = Path(__file__).parents[2] / "configs"


def networks(**changes: dict[str, Any]) -> str:
    """Write an override: the default networks with changes, and further ones, 2D-DDnets unless they say so."""
    named = {"flat": "2d", "deep": "3d"}
    flat = {"model": "ddnet", "dims": 2}
    by_name: dict[str, dict[str, Any]] = {"2d": flat, "3d": {"model": "ddnet", "dims": 3}}
    for name, settings in changes.items():
        network = named.get(name, name)
        by_name[network] = {**by_name.get(network, flat), **settings}
    return f"networks={json.dumps(by_name)}"


def red_cnn(**training: Any) -> str:
    return networks(redcnn={"model": "redcnn", "ranks": 2, "training": training})


def load(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> RunSettings:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_settings(path, RunSettings, overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_2d.lrate=1", r"train_2d is networks\.2d now: write networks: \{2d: "),
        ("red_cnn={}", r"red_cnn is one of the networks now: write networks: \{redcnn: \{model: redcnn, dims: 2, "),
        ("study.donor=x.npz", r"study: donor is a setting of a network now: write networks\.ID\.donor_file"),
        (networks(u={"model": "unit"}), r"networks\.u\.model: 'unit' is no network"),
        ("networks={u: {model: ddnet}}", r"networks\.u\.dims is missing"),
        (networks(**{"a-b": {}}), "networks: 'a-b' is no id of a network: at most 32 letters"),
        (networks(tv={}), "'tv' is the name of a classical denoiser"),
        (networks(u={"options": {"width": 3}}), r"networks\.u\.options: width: DDnet has no such option; valid: none"),
        (networks(u={"lrate": 3}), r"networks\.u\.lrate is not a setting; valid here: model, dims, options"),
        (networks(u={"training": {"crops": 3}}), r"networks\.u\.training\.crops is not a setting; valid here: recipe"),
        (networks(u={"donor": "2d"}), "a 2D one starts from random weights"),
        (networks(u={}), r"networks\.3d could start from 2d or u: name the one"),
        (networks(deep={"donor": "x"}), r"networks\.3d\.donor: x is no 2D network of model ddnet.*those are: 2d"),
        ("networks={3d: {model: ddnet, dims: 3}}", r"networks\.3d cannot start from 2D weights: add a 2D network of"),
        ("networks={}", "networks: Input should not be empty"),
        ("networks=[]", "networks: Input should be a mapping of settings"),
        ("runs=''", "runs: is empty, and would be the working folder: write the path, or . for that folder"),
        ("networks={2d: 3}", r"networks\.2d: Input should be a mapping of settings"),
        (networks(**{"u.small": {}}), "networks: 'u.small' is no id of a network"),
        (networks(deep={"ranks": 2}), r"networks\.3d\.ranks has no effect, as the study's grid names the network"),
        ("study.training.doses=[0.25,0.25]", r"study\.training\.doses: 0\.25 stands there twice"),
        ("evaluate.classical=[tv,tv]", r"evaluate\.classical: tv stands there twice"),
        ("study.network=4d", r"study\.network: there is no network 4d; networks has 2d, 3d"),
        ("data.low_dose.dos=1", r"data\.low_dose\.dos is not a setting; valid here: doses, realisations"),
        ("data.sources=[{kind: sample, pth: x}]", r"data\.sources\.0\.pth is not a setting; valid here: kind, path"),
        ("colour=red", r"colour is not a setting; valid here: name, runs, share, data"),
        ("data.low_dose.doses=2", r"data\.low_dose\.doses\.0: Input should be less than 1 \(got 2\)"),
        (
            "data.low_dose.dose=0.1",
            r"data\.low_dose: dose is called doses now: write doses: 0\.1, or doses: \[0\.05, 0\.1\]",
        ),
        ("study.training.doses=0.1", r"networks\.2d\.training\.doses has 0\.1, and data\.low_dose\.doses only 0\.25"),
        ("data.low_dose.doses=[]", r"data\.low_dose\.doses: Input should not be empty"),
        ("data.low_dose.doses=[0.1, 0.1]", r"data\.low_dose\.doses: 0\.1 stands there twice"),
        ("data.low_dose.electronic_sd=.inf", r"electronic_sd: Input should be a finite number \(got inf\)"),
        ("study.ranks=[0]", r"study\.ranks\.0: Input should be greater than 0 \(got 0\)$"),
        (
            "data.low_dose.doses=[2,3]",
            r"data\.low_dose\.doses\.0: Input should be less than 1 \(got 2\) \(and 1 more\)$",
        ),
        ("study.seeds=[0,-1]", r"study\.seeds\.1: Input should be greater than or equal to 0 \(got -1\)$"),
        (networks(u={"training": {"seed": 2**63}}), r"training\.seed: Input should be less than or equal to 92"),
        ("evaluate.threads=2000", r"evaluate\.threads: Input should be less than or equal to 1024 \(got 2000\)$"),
        ("study.slices=[20]", r"study\.slices\.0: Input should be a multiple of 16 \(got 20\)"),
        ("study.training.crop=100", r"study\.training\.crop: Input should be a multiple of 16 \(got 100\)"),
        ("study.training.crop=528", r"study\.training\.crop: Input should be less than or equal to 512 \(got 528\)"),
        ("evaluate.crop=1024", r"evaluate\.crop: Input should be less than or equal to 512 \(got 1024\)"),
        ("evaluate.crop=176", r"evaluate\.crop: Input should be greater than or equal to 192 \(got 176\)"),
        (
            "study.training.samples=3",
            r"networks\.3d\.training\.samples 3 must be a multiple of ranks x batch x accumulation = 2",
        ),
        (
            "study.training={cuda_graphs: true, accumulation: 2}",
            "cuda_graphs and accumulation exclude each other: take one of them",
        ),
        ("study.training={cuda_graphs: true, norm: sync, batch: 2}", "cuda_graphs and norm: sync exclude each other"),
        ("study.training={cuda_graphs: true, compile: true}", "cuda_graphs and compile: true exclude each other"),
        ("study.training={norm: batch, crop: 16}", "crop 16 and batch 1 leave batch norm one value"),
        (networks(deep={"training": {"residual": False}}), r"3d\.training\.residual must equal networks\.2d\.training"),
        (networks(deep={"training": {"scaling": "unit"}}), r"3d\.training\.scaling must equal networks\.2d"),
        (networks(deep={"training": {"norm": "frozen"}}), r"and networks\.2d\.training\.norm must both be group"),
        ("study.transfer=[none,one]", r"study\.transfer\.1: Input should be 'none', 'zero', 'repeat'"),
        (
            networks(deep={"donor_file": "x.npz"}),
            r"donor_file holds a network without residual.*set networks\.3d\.training\.residual to false",
        ),
        (red_cnn(activation_checkpointing=True), "activation_checkpointing has no effect on RED-CNN"),
        (red_cnn(crop=16, batch=2), r"redcnn: training\.crop 16 is too small: RED-CNN takes 21"),
        (red_cnn(residual=False), r"redcnn: training: RED-CNN without residual ends in a ReLU.*set scaling to unit"),
        (red_cnn(samples=3), r"networks\.redcnn\.training\.samples 3 must be a multiple"),
        (
            "name=../x",
            r"name: Input should be at most 64 letters from a to z or A to Z, digits, dots, hyphens and underscores, "
            r"the first a letter or digit \(got '\.\./x'\)$",
        ),
        ("name=größe", r"name: Input should be at most 64 letters from a to z or A to Z,.*\(got 'größe'\)$"),
        (
            "budget.currency=Euro",
            r"budget\.currency: Input should be a code of three capital letters, such as EUR \(got 'Euro'\)$",
        ),
        ("data.sources=[{kind: dicom}]", r"data\.sources\.0: path is missing: the folder or file of the dicom source$"),
        ("data.sources=[{kind: sample, path: /x}]", r"data\.sources\.0: path has no effect on the sample"),
        ("study.ranks=yes", r"study\.ranks\.0: Input should be a whole number \(got 'yes'\)$"),
        ("study.training.epochs=1:30", r"study\.training\.epochs: Input should be a whole number \(got '1:30'\)$"),
        ("study.ranks=true", r"study\.ranks: Input should be a number \(got \[true\]\)$"),
        ("study.training.epochs=true", r"study\.training\.epochs: Input should be a number \(got true\)$"),
        ("data.low_dose.bowtie=[0.5,true]", r"low_dose\.bowtie: Input should be a number \(got \[0\.5, true\]\)$"),
        ("study.training.flips=1", r"study\.training\.flips: Input should be true or false \(got 1\)$"),
        ("study.training.flips=never", r"study\.training\.flips: Input should be true or false \(got 'never'\)$"),
        ("study.training.learning_rate=1,5", r"learning_rate: Input should be a number \(got '1,5'\)$"),
        ("name=2026", r"name: Input should be text, a number in quotes \(got 2026\)$"),
        (networks(u={"model": "DDnet"}), r"'DDnet' is no network \(did you mean ddnet\?\)"),
        ("share=true", r"share: Input should be 'none' or 'group' \(got true\)$"),
        ("study=", r"study: Input should be a mapping of settings \(got nothing\)$"),
        ("name.x=1", "name is a value, not a group"),
        *((key, "must look like a.b=value") for key in ("study", "=1", ".name=x", "study..ranks=1", "study = 3")),
    ],
)
def test_wrong_settings_name_the_key_and_what_is_allowed(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, MINIMAL, override)


def test_a_switch_a_decimal_number_and_a_date_are_read_as_they_stand(tmp_path: Path) -> None:
    overrides = ("study.training.residual=no", "study.training.epochs=010", "name=2026-11-29")
    run = load(tmp_path, MINIMAL, *overrides)
    assert (run.study.training.residual, run.study.training.epochs, run.name) == (False, 10, "2026-11-29")


def test_a_crop_may_be_the_whole_plane(tmp_path: Path) -> None:
    run = load(tmp_path, MINIMAL, f"study.training.crop={SIDE}", f"evaluate.crop={SIDE}", "study.slices=[528]")
    assert (run.networks["3d"].training.crop, run.evaluate.crop, run.study.slices) == (SIDE, SIDE, (528,))


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [
        ("photons", "scan, mas or a number above 0", ["foo", "0", "-2", ".nan", ".inf", "null", "[1]"]),
        (
            "z_correlation",
            "scan or a list of at most 8 numbers between -1 and 1",
            ["mas", "0.3", "[1]", "[0.3, x]", "[.nan]", "null", f"[{'0.1, ' * 9}]"],
        ),
    ],
)
def test_a_setting_of_several_kinds_says_in_one_sentence_what_is_allowed(
    tmp_path: Path, key: str, allowed: str, refused: list[str]
) -> None:
    for text in refused:
        with pytest.raises(UserError, match=rf"data\.low_dose\.{key}: Input should be {allowed} \(got [^()]+\)$"):
            load(tmp_path, MINIMAL, f"data.low_dose.{key}={text}")


@pytest.mark.parametrize(
    ("key", "accepted"), [("photons", ["scan", "mas", "2.0e+5"]), ("z_correlation", ["scan", "[]"])]
)
def test_a_setting_of_several_kinds_takes_each(tmp_path: Path, key: str, accepted: list[str]) -> None:
    for text in accepted:
        load(tmp_path, MINIMAL, f"data.low_dose.{key}={text}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must hold a mapping"),
        ("a: [", "no valid YAML"),
        ("name: x", "data is missing"),
        ("name: x\nname: y", "name is set twice .*line 2"),
        ("name: !!timestamp 2026-02-30", "this is no timestamp .*line 1"),
        ("name: !!int x", "this is no int .*line 1"),
        ("[" * 3000, "nested too deeply"),
        (MINIMAL + "study: {training: {recipe: !!set {a}}}", "recipe"),
        ("name: x\ndata: {sources: [{kind: dicom, path: .nan}]}", r"path: Input should be a path \(got nan\)"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, text)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml does not exist"):
        load_settings(tmp_path / "absent.yaml", RunSettings)


def test_the_paper_recipe_by_name_and_overrides_of_it(tmp_path: Path) -> None:
    run = load(tmp_path, MINIMAL, "study.training.recipe=paper", "study.training.epochs=3", "study.transfer=none")
    training = run.networks["3d"].training
    assert (training.scaling, training.residual, training.schedule, training.ms_ssim) == (
        "unit",
        False,
        "exponential",
        "authors",
    )
    assert (training.crop, training.batch, training.learning_rate, training.epochs) == (None, 1, 1e-3, 3)
    assert run.networks["2d"].training == training


def test_resolved_settings_resolve_to_themselves(tmp_path: Path) -> None:
    run = load(tmp_path, MINIMAL, "study.training.recipe=paper", "study.transfer=[none,zero]")
    reloaded = load(tmp_path, yaml.safe_dump(run.model_dump(mode="json")))
    assert reloaded == run


def test_settings_that_all_networks_share_change_also_in_the_recorded_settings(tmp_path: Path) -> None:
    run = load(tmp_path, MINIMAL, networks(flat={"training": {"crop": 32}}), "study.training.epochs=3")
    reloaded = load(tmp_path, resolved_yaml(run), "study.training.epochs=2")
    epochs_and_crops = {name: (x.training.epochs, x.training.crop) for name, x in reloaded.networks.items()}
    assert epochs_and_crops == {"2d": (2, 32), "3d": (2, 64)}
    assert load(tmp_path, resolved_yaml(run)) == run


def test_the_grid_of_cells(tmp_path: Path) -> None:
    cells = cells_of(load(tmp_path, MINIMAL, "study.ranks=[1,2,4]", "study.slices=[16,32]"))
    assert [cell.id for cell in cells] == ["2d", *(f"3d-s{s}-r{r}" for s in (16, 32) for r in (1, 2, 4))]


@pytest.mark.parametrize(
    ("setting", "key"),
    [("seeds=[0, 1]", "study"), ("epochs=5", "study"), ("ranks=[1, 2, 4]", "study"), ("ranks=4", "study"),
     ("control_steps=20", "study"),
     ("also=[{seeds: [0, 1]}]", r"study\.also\.0")],
)  # fmt: skip
def test_a_grid_without_networks_asks_for_nothing(tmp_path: Path, setting: str, key: str) -> None:
    """One training of 50 epochs came of it."""
    flat = "networks={2d: {model: ddnet, dims: 2}}"
    with pytest.raises(UserError, match=rf"{key}\.\w+ has no effect: without a 3D network the grid has none"):
        load(tmp_path, MINIMAL, flat, f"study.{setting}")
    assert load(tmp_path, MINIMAL, f"study.{setting}").study.grids
    resolved = resolved_yaml(load(tmp_path, MINIMAL, flat, "study.ranks=1", "study.slices=16"))
    assert load(tmp_path, resolved).networks.keys() == {"2d"}


def test_red_cnn_and_several_transfers_are_cells_of_the_grid(tmp_path: Path) -> None:
    grid = (red_cnn(crop=32), "study.transfer=[none,zero]", "study.slices=[16,32]", "study.ranks=[1]")
    cells = {cell.id: cell for cell in cells_of(load(tmp_path, MINIMAL, *grid))}
    assert list(cells) == ["2d", "redcnn", "3d-s16-r1-none", "3d-s32-r1-none", "3d-s16-r1", "3d-s32-r1"]
    assert [cell.transfer for cell in cells.values()] == ["none", "none", "none", "none", "zero", "zero"]
    assert [cell.validated for cell in cells.values()] == [16, 16, 16, 32, 16, 32]
    redcnn = cells["redcnn"]
    assert (redcnn.model, redcnn.dims, redcnn.slices, redcnn.training.crop) == ("redcnn", 2, 1, 32)
    assert {cell.model for cell in cells.values() if cell.id != "redcnn"} == {"ddnet"}


def test_a_donor_wants_a_network_like_it_and_a_use(tmp_path: Path) -> None:
    unlike = {"residual": False, "scaling": "unit", "norm": "frozen"}
    fitting = networks(deep={"donor_file": "x.npz", "training": unlike})
    assert load(tmp_path, MINIMAL, fitting).networks["3d"].donor_file == Path("x.npz").absolute()
    with pytest.raises(UserError, match=r"networks\.3d\.donor_file has no effect with study\.transfer none"):
        load(tmp_path, MINIMAL, fitting, "study.transfer=none")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_of_the_project_is_valid(path: Path) -> None:
    load_settings(path, RunSettings)


def test_the_paper_s_table_2_to_the_row(tmp_path: Path) -> None:
    """Ranks, slices, epochs, sampling and transfer of each of its eleven rows, each with three seeds."""
    run = load_settings(CONFIGS / "paper.yaml", RunSettings)
    full = [cell for cell in cells_of(run) if cell.arm == "full"]
    rows = {(c.training.epochs, c.slices, c.ranks, c.sampling, c.transfer) for c in full if c.dims == 3}
    grouped = [(50, 16, 1), (50, 16, 2), (50, 16, 4), (50, 32, 2), (50, 32, 4), (25, 32, 2), (25, 32, 4)]
    assert rows == {
        *((*row, "grouped", "zero") for row in grouped),
        (50, 32, 2, "strided", "none"), (50, 32, 2, "grouped", "none"), (15, 32, 2, "strided", "zero"),
    }  # fmt: skip
    assert len(full) == 1 + 3 * len(rows)
    assert [(c.training.epochs, c.ranks) for c in full if c.dims == 2] == [(50, 1)]
    assert {c.training.recipe for c in full} == {"paper"}


def test_networks_are_an_axis_of_the_grid(tmp_path: Path) -> None:
    """Of a 2D network slices, sampling and transfer change nothing; a network that no grid names is trained once."""
    grid = ("study.network=[2d,3d]", "study.slices=[16,32]", "study.transfer=[none,zero]", "study.seeds=[0,1]")
    text = MINIMAL + "study: {training: {crop: 32}}"
    run = load(tmp_path, text, networks(flat={"training": {"crop": 48}}, redcnn={"model": "redcnn"}), *grid)
    cells = {cell.id: cell for cell in cells_of(run)}
    deep = [f"3d-s{s}-r{r}{fill}{seed}" for fill in ("-none", "") for seed in ("", "-seed1") for s in (16, 32)
            for r in (1, 2)]  # fmt: skip
    assert list(cells) == ["redcnn", "2d-r1", "2d-r2", "2d-r1-seed1", "2d-r2-seed1", *deep]
    assert {cell.network: cell.training.crop for cell in cells.values()} == {"redcnn": 32, "2d": 48, "3d": 32}
    assert {cell.counterpart for cell in cells.values() if cell.dims == 3} == {"2d-r1"}
    assert [cell.is_in_grid for cell in cells.values()] == [False] + [True] * 20


def test_trainings_that_are_alike_are_done_once(tmp_path: Path) -> None:
    twice = load(tmp_path, MINIMAL + "study: {ranks: [1, 2], slices: 16, also: [{ranks: [2, 4]}, {slices: 16}]}")
    assert [cell.id for cell in cells_of(twice)] == ["2d", "3d-s16-r1", "3d-s16-r2", "3d-s16-r4"]


def test_further_grids_take_from_the_study_what_they_do_not_set(tmp_path: Path) -> None:
    run = load(tmp_path, MINIMAL + "study: {ranks: 2, slices: 16, transfer: none, seeds: [3, 4], also: [{ranks: 4}]}")
    cells = [(cell.ranks, cell.transfer, cell.training.seed) for cell in cells_of(run) if cell.dims == 3]
    assert cells == [(2, "none", 3), (2, "none", 4), (4, "none", 3), (4, "none", 4)]


def test_control_arms_stand_beside_each_point_and_a_rank_alone_beside_all(tmp_path: Path) -> None:
    text = "study: {ranks: [1, 2, 4], slices: 16, seeds: [0, 1], control_steps: 30, training: {samples: 8}}"
    arms = [cell for cell in cells_of(load(tmp_path, MINIMAL + text)) if cell.arm != "full"]
    assert [cell.id for cell in arms] == [
        "3d-s16-r1-synthetic", "3d-s16-r1-alone", "3d-s16-r2-synthetic", "3d-s16-r2-silent", "3d-s16-r4-synthetic",
        "3d-s16-r4-silent",
    ]  # fmt: skip
    for arm in arms:
        epoch_samples = samples_per_epoch(arm.training, 1, arm.ranks)
        assert epoch_samples // effective_batch(arm.training, arm.ranks) * arm.training.epochs == 30


def test_ranks_that_do_not_exchange_gradients_do_not_exchange_statistics(tmp_path: Path) -> None:
    study = "study: {ranks: 2, slices: 16, transfer: none, control_steps: 30, training: {samples: 8, norm: sync}}"
    arms = {cell.arm: cell.training.norm for cell in cells_of(load(tmp_path, MINIMAL + study)) if cell.dims == 3}
    assert arms == {"full": "sync", "synthetic": "sync", "silent": "batch", "alone": "sync"}


def test_a_measured_low_dose_is_trained_on_as_it_is(tmp_path: Path) -> None:
    mayo = "data.sources=[{kind: mayo, path: x}]"
    load(tmp_path, MINIMAL, mayo)
    for setting in ("fresh=true", "doses=0.25"):
        with pytest.raises(UserError, match=r"needs simulated low doses, and those of mayo are measured: leave "):
            load(tmp_path, MINIMAL, mayo, f"study.training.{setting}")
    load(tmp_path, MINIMAL, "data.sources=[{kind: mayo, path: x, low_dose: simulated}]", "study.training.fresh=true",
         "study.training.doses=[0.03, 0.6]")  # fmt: skip
