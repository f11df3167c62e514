from pathlib import Path

import pytest
import yaml

from data_prep.errors import UserError
from data_prep.settings_file import load_settings
from pipeline.settings.cells import cells_of
from pipeline.settings.run import RunSettings
from pipeline.training.schedule import effective_batch, samples_per_epoch

MINIMAL = "name: x\ndata: {sources: [{kind: sample}]}\n"
CONFIGS = Path(__file__).parents[2] / "configs"


def load(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> RunSettings:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_settings(path, RunSettings, overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train_2d.lrate=1", r"train_2d\.lrate is not a setting; valid here: ranks, training"),
        ("data.low_dose.dos=1", r"data\.low_dose\.dos is not a setting; valid here: dose, photons"),
        ("data.sources=[{kind: sample, pth: x}]", r"data\.sources\.0\.pth is not a setting; valid here: kind, path"),
        ("colour=red", r"colour is not a setting; valid here: name, runs, share, data"),
        ("data.low_dose.dose=2", r"data\.low_dose\.dose: Input should be less than 1 \(got 2\)"),
        ("data.low_dose.electronic_sd=.inf", r"electronic_sd: Input should be a finite number \(got inf\)"),
        ("study.slices=[20]", r"study\.slices\.0: Input should be a multiple of 16 \(got 20\)"),
        ("study.training.crop=100", r"study\.training\.crop: Input should be a multiple of 16 \(got 100\)"),
        ("study.training.samples=3", "samples 3 must be a multiple of ranks x batch x accumulation = 2"),
        ("study.training={norm: batch, crop: 16}", "crop 16 and batch 1 leave batch norm one value"),
        ("study.training.residual=false", r"study\.training\.residual must equal train_2d"),
        ("study.training.scaling=unit", r"study\.training\.scaling must equal train_2d"),
        ("study.transfer=[none,one]", r"study\.transfer\.1: Input should be 'none', 'zero', 'repeat'"),
        ("study.donor=x.npz", r"study\.donor holds a network without residual.*set study\.training\.residual to false"),
        ("red_cnn={training: {activation_checkpointing: true}}", "activation_checkpointing has no effect on RED-CNN"),
        ("red_cnn={training: {crop: 16, batch: 2}}", r"red_cnn\.training\.crop 16 is too small: RED-CNN takes 21"),
        ("red_cnn={training: {residual: false}}", r"set red_cnn\.training\.scaling to unit or minmax"),
        ("red_cnn={ranks: 2, training: {samples: 3}}", r"red_cnn\.training\.samples 3 must be a multiple"),
        ("name=../x", "name: String should match pattern"),
        ("name.x=1", "name is a value, not a group"),
        ("study", "must look like a.b=value"),
    ],
)
def test_wrong_settings_name_the_key_and_what_is_allowed(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, MINIMAL, override)


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
        ("name: 2026-02-30", "this is no timestamp .*line 1"),
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
    training = run.study.training
    assert (training.scaling, training.residual, training.schedule, training.ms_ssim) == (
        "unit",
        False,
        "exponential",
        "authors",
    )
    assert (training.crop, training.batch, training.learning_rate, training.epochs) == (None, 1, 1e-3, 3)
    assert run.train_2d.training.recipe == "default"


def test_resolved_settings_resolve_to_themselves(tmp_path: Path) -> None:
    run = load(tmp_path, MINIMAL, "train_2d.training.recipe=paper", "study.transfer=none")
    again = load(tmp_path, yaml.safe_dump(run.model_dump(mode="json")))
    assert again == run


def test_the_grid_of_cells(tmp_path: Path) -> None:
    cells = cells_of(load(tmp_path, MINIMAL, "study.ranks=[1,2,4]", "study.slices=[16,32]"))
    assert [cell.id for cell in cells] == ["2d", *(f"3d-s{s}-r{r}" for s in (16, 32) for r in (1, 2, 4))]


def test_red_cnn_and_several_transfers_are_cells_of_the_grid(tmp_path: Path) -> None:
    grid = ("red_cnn={training: {crop: 32}}", "study.transfer=[none,zero]", "study.slices=[16,32]", "study.ranks=[1]")
    cells = {cell.id: cell for cell in cells_of(load(tmp_path, MINIMAL, *grid))}
    assert list(cells) == ["2d", "redcnn", "3d-s16-r1-none", "3d-s32-r1-none", "3d-s16-r1", "3d-s32-r1"]
    assert [cell.transfer for cell in cells.values()] == ["none", "none", "none", "none", "zero", "zero"]
    assert [cell.validated for cell in cells.values()] == [16, 16, 16, 32, 16, 32]
    red_cnn = cells["redcnn"]
    assert (red_cnn.model, red_cnn.dims, red_cnn.slices, red_cnn.training.crop) == ("redcnn", 2, 1, 32)
    assert {cell.model for cell in cells.values() if cell.id != "redcnn"} == {"ddnet"}


def test_a_donor_wants_a_network_like_it_and_a_use(tmp_path: Path) -> None:
    fitting = ("study.donor=x.npz", "study.training={residual: false, scaling: unit, norm: frozen}")
    assert load(tmp_path, MINIMAL, *fitting).study.donor == Path("x.npz").absolute()
    with pytest.raises(UserError, match=r"study\.donor has no effect with study\.transfer none"):
        load(tmp_path, MINIMAL, *fitting, "study.transfer=none")


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


def test_trainings_that_are_alike_are_done_once(tmp_path: Path) -> None:
    twice = load(tmp_path, MINIMAL + "study: {ranks: [1, 2], slices: 16, also: [{ranks: [2, 4]}, {slices: 16}]}")
    assert [cell.id for cell in cells_of(twice)] == ["2d", "3d-s16-r1", "3d-s16-r2", "3d-s16-r4"]


def test_further_grids_take_from_the_study_what_they_do_not_set(tmp_path: Path) -> None:
    run = load(tmp_path, MINIMAL + "study: {ranks: 2, slices: 16, transfer: none, seeds: [3, 4], also: [{ranks: 4}]}")
    found = [(cell.ranks, cell.transfer, cell.training.seed) for cell in cells_of(run) if cell.dims == 3]
    assert found == [(2, "none", 3), (2, "none", 4), (4, "none", 3), (4, "none", 4)]


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
