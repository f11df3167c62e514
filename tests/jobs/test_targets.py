"""No command replaces or removes what it did not write, nor writes onto, into or around an input."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from typer.testing import CliRunner

from data_prep.errors import UserError
from jobs.commands.cli import app
from tests.data_prep.dicom_series import change, write_series
from tests.scans import chest
from tests.toy_models import SPACING, toy_model

SMALL = chest(4, 32)


def digests(folder: Path) -> dict[str, str]:
    """The content of each file, the target of each link, and each folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }  # fmt: skip


def run(*words: object) -> str:
    """Run the command line in this process; its errors come out of it."""
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False).output


@pytest.fixture
def clinic(tmp_path: Path) -> Path:
    """A folder with a model, a series, a NIfTI file with its side file, and a link to the series."""
    folder = tmp_path / "clinic"
    write_series(folder / "series", SMALL, SPACING)
    nib.save(nib.Nifti1Image(SMALL.transpose(2, 1, 0), np.diag([-0.7, -0.7, 2.5, 1])), folder / "scan.nii.gz")
    (folder / "scan.json").write_text('{"Manufacturer": "a side file of dcm2niix"}')
    (folder / "link").symlink_to("series")
    (folder / "models").mkdir()
    toy_model(folder / "models")
    return folder


@pytest.fixture
def in_clinic(clinic: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(clinic)
    before = digests(clinic)
    yield clinic
    assert digests(clinic) == before


MODEL = ("--model", "models/model.safetensors", "--threads", "1")


@pytest.mark.usefixtures("in_clinic")
@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("series", "--out", "."), "is the input"),
        (("series", "--out", "../clinic/series/.."), "is the input"),
        (("scan.nii.gz", "--out", ".", "--format", "nifti"), "is the input"),
        (("series", "--out", "series"), "lies inside the input series"),
        (("series", "--out", "series/deeper/still"), "lies inside the input series"),
        (("link", "--out", "series"), "lies inside the input link"),
        (("series", "--out", "link"), "lies inside the input series"),
        (("scan.nii.gz", "series", "--out", "series"), "lies inside the input series"),
        (("../clinic", "--out", ".."), "is the input"),
        ((".", "--out", ".."), "is the input"),
        (("models/..", "--out", ".."), "is the input"),
        (("scan.nii.gz", "--out", "."), "scan.json was not written by this command"),
        (("scan.nii.gz", "--out", "scan.nii.gz"), "cannot be written|lies inside"),
        (("scan.nii.gz", "--out", "scan.json"), "cannot be written: "),
    ],
)  # fmt: skip
def test_an_output_apart_from_all_inputs_or_none(words: tuple[str, ...], match: str) -> None:
    for overwrite in ((), ("--overwrite",)):
        with pytest.raises(UserError, match=match):
            run("denoise", *words, *MODEL, *overwrite)


def test_an_output_that_would_hold_an_input_or_the_model(clinic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clinic)
    write_series(clinic / "elsewhere" / "models", SMALL, SPACING)
    before = digests(clinic)
    with pytest.raises(UserError, match=r"models holds the input models/model\.safetensors"):
        run("denoise", "elsewhere/models", "--out", ".", *MODEL)
    assert digests(clinic) == before


def test_a_folder_that_the_input_links_to_is_part_of_it(clinic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clinic)
    Path("study").mkdir()
    Path("study/first").symlink_to("../series")
    before = digests(clinic)
    with pytest.raises(UserError, match="lies inside the input study/first"):
        run("denoise", "study", "--out", "series", *MODEL)
    assert digests(clinic) == before


def test_a_pair_is_not_replaced_by_its_denoised_scan(tmp_path: Path, make_pair: object) -> None:
    pair = make_pair("a", 4, 32) / "toy" / "a.zarr"  # type: ignore[operator]
    before = digests(pair.parent)
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match="is the input"):
        run("denoise", pair, "--out", pair.parent, "--format", "zarr", "--model", toy_model(tmp_path / "models"))
    assert digests(pair.parent) == before


def patient_ids(folder: Path) -> set[str]:
    return {str(pydicom.dcmread(path).PatientID) for path in folder.glob("*.dcm")}


@pytest.fixture
def namesakes(tmp_path: Path) -> list[Path]:
    scans = [tmp_path / patient / "CT" for patient in "AB"]
    for scan in scans:
        write_series(scan, SMALL, SPACING, patient=scan.parent.name)
    return scans


@pytest.mark.parametrize("is_one_command", [True, False])
def test_scans_of_the_same_name_have_an_output_each(
    is_one_command: bool, namesakes: list[Path], tmp_path: Path
) -> None:
    common = ("--model", toy_model(tmp_path), "--out", tmp_path / "out", "--threads", "1")
    for scans in [namesakes] if is_one_command else [[scan] for scan in namesakes]:
        run("denoise", *scans, *common)
    outputs = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert sorted(map(patient_ids, outputs), key=str) == [{"A"}, {"B"}]
    before = digests(tmp_path / "out")
    assert run("denoise", *reversed(namesakes), namesakes[0], *common).count("done before") == 2
    assert digests(tmp_path / "out") == before


def test_a_folder_of_the_users_stays_also_under_overwrite(namesakes: list[Path], tmp_path: Path) -> None:
    common = ("--model", toy_model(tmp_path), "--out", tmp_path / "out", "--threads", "1")
    (tmp_path / "out" / "CT").mkdir(parents=True)
    (tmp_path / "out" / "CT" / "notes.txt").write_text("mine")
    before = digests(tmp_path)
    for overwrite in ((), ("--overwrite",)):
        with pytest.raises(UserError, match="CT was not written by this command, and nothing of yours is replaced"):
            run("denoise", namesakes[0], *common, *overwrite)
    assert digests(tmp_path) == before


def test_overwrite_replaces_what_was_written_and_nothing_that_came_later(namesakes: list[Path], tmp_path: Path) -> None:
    common = ("denoise", namesakes[0], "--model", toy_model(tmp_path), "--out", tmp_path / "out", "--threads", "1")
    run(*common)
    output = tmp_path / "out" / "CT"
    before, inode = digests(tmp_path / "out"), output.stat().st_ino
    assert "slices" in run(*common, "--overwrite")
    assert digests(tmp_path / "out") == before
    assert output.stat().st_ino != inode
    (output / "00002.dcm").unlink()
    assert "slices" in run(*common)  # what is missing is written again
    assert digests(tmp_path / "out") == before
    (output / "notes.txt").write_text("mine")
    assert "done before" in run(*common)
    with pytest.raises(UserError, match=r"CT/notes\.txt was added or changed"):
        run(*common, "--overwrite")
    (output / "notes.txt").unlink()
    change(output / "00003.dcm", WindowWidth="350")
    changed = digests(tmp_path / "out")
    for overwrite in ((), ("--overwrite",)):
        with pytest.raises(UserError, match=r"CT/00003\.dcm was added or changed"):
            run(*common, *overwrite)
    assert digests(tmp_path / "out") == changed


def test_a_kill_between_record_and_files_leaves_what_the_next_run_replaces(
    namesakes: list[Path], tmp_path: Path
) -> None:
    common = ("denoise", namesakes[0], "--model", toy_model(tmp_path), "--out", tmp_path / "out", "--threads", "1")
    run(*common)
    record_file = tmp_path / "out" / "CT.json"
    record = json.loads(record_file.read_text())
    changed = dict.fromkeys(record["files"], "0" * 64)
    record_file.write_text(json.dumps({**record, "files": changed, "replaced_files": record["files"]}))
    assert "slices" in run(*common)
    assert json.loads(record_file.read_text()) == record
    shutil.rmtree(tmp_path / "out" / "CT")
    assert "slices" in run(*common)
    assert json.loads(record_file.read_text()) == record


def test_a_lock_file_of_the_users_keeps_its_content(namesakes: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text("mine")
    run("denoise", namesakes[0], "--model", toy_model(tmp_path), "--out", tmp_path / "out", "--threads", "1")
    assert (tmp_path / "out" / ".lock").read_text() == "mine"


@pytest.mark.parametrize("name", ["CT[1]", "*", "CT.1", "a" * 240])
def test_names_that_are_patterns_or_long(name: str, tmp_path: Path) -> None:
    write_series(tmp_path / "scans" / name, SMALL, SPACING)
    users = tmp_path / "out" / ".CT1.mine.tmp"
    users.mkdir(parents=True)
    run("denoise", tmp_path / "scans" / name, "--model", toy_model(tmp_path), "--out", tmp_path / "out", "--threads", 1)
    assert users.is_dir()
    assert len(list((tmp_path / "out").glob("*/00004.dcm"))) == 1


def tissue(folder: Path) -> float:
    """The largest HU of a series, read by SimpleITK."""
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return float(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(files)).max())


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two series of one patient, told apart by a voxel that no network touches, a scout and a stray image."""
    for number, top in ((1, 5000), (2, 6000)):
        hu = SMALL.copy()
        hu[:, 0, 0] = top
        write_series(tmp_path / "study" / f"s{number}", hu, SPACING, ConvolutionKernel="B30f", SliceThickness=2.5)
    write_series(tmp_path / "study" / "scout", chest(1, 32), SPACING, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "study" / "stray", chest(1, 48), SPACING)
    return tmp_path / "study"


def uid_of(folder: Path) -> str:
    return str(pydicom.dcmread(next(folder.glob("*.dcm"))).SeriesInstanceUID)


def test_several_series_are_listed_and_chosen(study: Path, tmp_path: Path) -> None:
    common = ("denoise", study, "--model", toy_model(tmp_path), "--threads", "1")
    uids = [uid_of(study / name) for name in ("s1", "s2")]
    listed = "; ".join(f"{number}: 4 slices, 2.5 mm, kernel B30f, {uid}" for number, uid in enumerate(uids, start=1))
    with pytest.raises(UserError) as refusal:
        run(*common, "--out", tmp_path / "none")
    assert f"holds 2 CT series, wanted one: choose by --series NUMBER, UID or all: {listed}" in str(refusal.value)
    with pytest.raises(UserError) as refusal:
        run(*common, "--out", tmp_path / "none", "--deidentify")
    assert not any(uid in str(refusal.value) for uid in uids)
    with pytest.raises(UserError, match="--series 3 is not there, but 1: 4 slices"):
        run(*common, "--out", tmp_path / "none", "--series", "3")
    said = run(*common, "--out", tmp_path / "one", "--series", "2")
    assert "images that are set aside, as they are of no CT scan or were denoised: 2" in said
    assert tissue(tmp_path / "one" / "study") == 6000
    run(*common, "--out", tmp_path / "uid", "--series", uids[0])
    assert tissue(tmp_path / "uid" / "study") == 5000
    run(*common, "--out", tmp_path / "one", "--series", "all")
    outputs = [path for path in (tmp_path / "one").iterdir() if path.is_dir()]
    assert sorted(map(tissue, outputs)) == [5000, 6000]


def test_of_all_series_one_that_cannot_be_opened_stops_itself_alone(study: Path, tmp_path: Path) -> None:
    (study / "s1" / "1-999.dcm").symlink_to(tmp_path / "not mounted.dcm")
    with pytest.raises(UserError, match=r"1 of 2 series were refused: file \S+, which may be .* cannot be opened"):
        run("denoise", study, "--series", "all", "--model", toy_model(tmp_path), "--out", tmp_path / "out")
    (output,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert tissue(output) == 6000


def test_single_images_beside_a_scan_do_not_block_it(study: Path, tmp_path: Path) -> None:
    shutil.rmtree(study / "s2")
    run("denoise", study, "--model", toy_model(tmp_path), "--out", tmp_path / "out", "--threads", "1")
    assert tissue(tmp_path / "out" / "study") == 5000


def test_what_was_denoised_is_denoised_once_more_only_where_it_is_alone(study: Path, tmp_path: Path) -> None:
    shutil.rmtree(study / "s2")
    common, twice = ("--model", toy_model(tmp_path), "--threads", "1", "--out"), "denoised by quarterdose before"
    assert twice not in run("denoise", study, *common, tmp_path / "out")
    shutil.move(tmp_path / "out" / "study", study / "denoised")
    said = run("denoise", study, *common, tmp_path / "again", "--series", "all")
    assert "as they are of no CT scan or were denoised: 6" in said
    assert [path.name for path in (tmp_path / "again").glob("*.json")] == ["study.json"]
    assert twice in run("denoise", study / "denoised", *common, tmp_path / "twice")


def test_a_series_is_chosen_in_a_folder_alone(clinic: Path, tmp_path: Path) -> None:
    words = ("denoise", clinic / "scan.nii.gz", "--out", tmp_path / "out", "--series", "1")
    with pytest.raises(UserError, match="--series chooses a series in a folder of DICOM files"):
        run(*words, "--model", clinic / "models" / "model.safetensors")
