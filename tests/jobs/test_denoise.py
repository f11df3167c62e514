"""The command line from a model file and a scan to files that other programs read."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
import zarr
from pydicom import FileDataset, dcmread
from typer.testing import CliRunner

from data_prep.errors import UserError
from data_prep.readers.dicom import open_dicom
from jobs.commands.cli import app
from pipeline.inference.model_file import load_model, save_model
from pipeline.models import build_network
from tests.beside import shared_file
from tests.data_prep.dicom_series import change, edit, write_enhanced, write_series
from tests.data_prep.scan_checks import find
from tests.pairs import write_pair
from tests.pipeline.cells import cell
from tests.scans import Hu, chest, write_nifti
from tests.toy_models import SPACING, toy_model
from tests.toy_runs import any_file, wait_for


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    return toy_model(tmp_path)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    hu = chest(24)
    hu[:, :2], hu[:, 2:4] = 5000, -1024
    write_series(tmp_path / "series", hu, SPACING)
    return tmp_path / "series"


def denoise(*arguments: object) -> str:
    """Run the command line in this process; errors come out of it."""
    return CliRunner().invoke(app, ["denoise", "--threads", "1", *map(str, arguments)], catch_exceptions=False).output


def read_series(folder: Path) -> Hu:
    image = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(image, "LPS"))


@pytest.mark.slow
def test_all_formats_hold_the_same_hu(series: Path, model_path: Path, tmp_path: Path) -> None:
    for kind in ("dicom", "nifti", "zarr"):
        denoise(series, "--model", model_path, "--out", tmp_path / "out", "--format", kind)
    out, source = tmp_path / "out", read_series(series)
    hu = read_series(out / "series")
    np.testing.assert_array_equal(hu, zarr.open_array(out / "series.zarr" / "denoised")[:])
    np.testing.assert_array_equal(hu, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "series.nii.gz"))))
    assert (hu[:, :2] == 5000).all()
    assert np.abs(hu.astype(int) - source).max() > 1
    provenance: Any = zarr.open_group(out / "series.zarr").attrs["quarterdose"]
    assert provenance["model_sha256"] == load_model(model_path).digest


def placed_nifti(folder: Path) -> Path:
    """A NIfTI file with axes R, A, S and an origin of its own."""
    position = np.array([[0.7, 0, 0, -31.5], [0, 0.7, 0, 12.25], [0, 0, 2.5, -300], [0, 0, 0, 1]])
    nib.save(nib.nifti1.Nifti1Image(chest(5, 37).transpose(2, 1, 0), position), folder / "placed.nii.gz")
    return folder / "placed.nii.gz"


def placed_pair(folder: Path) -> Path:
    """A pair of the same voxels, in canonical order, that records the same position."""
    placed_nifti(folder)
    hu, position = chest(5, 37)[:, ::-1, ::-1], np.diag([-0.7, -0.7, 2.5, 1.0])
    position[:3, 3] = -31.5 + 36 * 0.7, 12.25 + 36 * 0.7, -300
    arrays = dict.fromkeys(("full_dose", "low_dose"), np.ascontiguousarray(hu))
    write_pair(folder / "placed.zarr", arrays, (2.5, 0.7, 0.7), {}, position)
    return folder / "placed.zarr"


@pytest.mark.parametrize("source", [placed_nifti, placed_pair])
def test_all_formats_lie_where_the_source_lies(
    source: Callable[[Path], Path], model_path: Path, tmp_path: Path
) -> None:
    scan, out = source(tmp_path), tmp_path / "out"
    for kind in ("dicom", "nifti", "zarr"):
        denoise(scan, "--model", model_path, "--out", out, "--format", kind)
    original = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(tmp_path / "placed.nii.gz")), "LPS")
    series = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(out / "placed")))
    nifti = SimpleITK.ReadImage(str(out / "placed.nii.gz"))
    origin = original.GetOrigin()
    for image in (series, nifti):
        np.testing.assert_allclose(image.GetOrigin(), origin, atol=1e-4)
        np.testing.assert_allclose(image.GetSpacing(), original.GetSpacing(), atol=1e-6)
        np.testing.assert_allclose(image.GetDirection(), original.GetDirection(), atol=1e-6)
    attributes: Any = zarr.open_group(out / "placed.zarr").attrs
    scale, translation = attributes["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    np.testing.assert_allclose(scale["scale"], original.GetSpacing()[::-1], atol=1e-6)
    np.testing.assert_allclose(translation["translation"], origin[::-1], atol=1e-4)
    affine = np.array(attributes["quarterdose"]["affine_ras_mm"])
    np.testing.assert_allclose(affine[:3, 3], [-origin[0], -origin[1], origin[2]], atol=1e-4)


def test_a_pair_whose_position_was_not_recorded_says_so(
    model_path: Path, make_pair: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = make_pair("a", 4, 32) / "toy" / "a.zarr"
    said = denoise(pair, "--model", model_path, "--out", tmp_path / "out", "--format", "nifti")
    assert "did not record its position in the patient" in said + capsys.readouterr().out


def test_noise_that_the_model_was_not_trained_on_is_said_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hu = np.random.default_rng(0).normal(40, 40, (10, 96, 96)).round().astype(np.int16)
    hu[:, :16] = -1000
    write_nifti(tmp_path / "noisy.nii.gz", hu)
    settings, white = cell(2, norm="group"), {
        "mean frequency (cycles/mm)": [0.5, 0.6], "correlation of neighbouring slices": [0.0, 0.1],
    }  # fmt: skip
    for name, sds in (("same", [30.0, 45.0]), ("weaker", [10.0, 15.0])):
        trained = {"SD (HU)": sds, **white}
        save_model(tmp_path / name, build_network(settings), settings, {"noise": trained})
        arguments = ("--model", tmp_path / name, "--out", tmp_path / "out", "--format", "zarr")
        lines = (denoise(tmp_path / "noisy.nii.gz", *arguments) + capsys.readouterr().out).splitlines()
        record = json.loads((tmp_path / "out" / "noisy.zarr.json").read_text())["noise"]
        assert record["trained"] == trained
        assert record["input"]["SD (HU)"] == pytest.approx(40, rel=0.03)
        assert record["input"]["mean frequency (cycles/mm)"] == pytest.approx(0.3826 / 0.7, rel=0.03)  # of white noise
        assert record["input"]["correlation of neighbouring slices"] == pytest.approx(0, abs=0.06)
        remark = "its noise is outside of what the model was trained on: SD (HU) "
        assert record["remark"].startswith(remark) if name == "weaker" else not record["remark"]
        warnings = [f"{tmp_path}/noisy.nii.gz: {record['remark']}"] if name == "weaker" else []
        assert [line for line in lines if "trained" in line] == warnings
        repeated = (denoise(tmp_path / "noisy.nii.gz", *arguments) + capsys.readouterr().out).splitlines()
        assert [line for line in repeated if "done before" not in line] == warnings
    assert record["remark"].endswith(", trained on 10 to 15")


def test_noise_that_cannot_be_measured_is_said(model_path: Path, tmp_path: Path) -> None:
    denoise(placed_nifti(tmp_path), "--model", model_path, "--out", tmp_path / "out", "--format", "zarr")
    record = json.loads((tmp_path / "out" / "placed.zarr.json").read_text())["noise"]
    assert record["input"] is None
    assert record["remark"].startswith("its noise could not be measured")


def test_a_list_of_scans_of_any_kind(
    series: Path, model_path: Path, make_nifti: Callable[..., Path], make_pair: Callable[..., Path], tmp_path: Path
) -> None:
    scans = [series, make_nifti("toy.nii.gz", 5, 37), make_pair("a", 20) / "toy" / "a.zarr"]
    said = denoise(*scans, "--model", model_path, "--out", tmp_path / "out", "--format", "zarr")
    shapes = {
        name: zarr.open_array(tmp_path / "out" / f"{name}.zarr" / "denoised").shape for name in ("series", "toy", "a")
    }
    assert shapes == {"series": (24, 64, 64), "toy": (5, 37, 37), "a": (20, 64, 64)}
    assert said.count("slices") == 3


@pytest.mark.slow
def test_a_second_run_does_nothing_and_another_model_does_it_again(
    series: Path, model_path: Path, tmp_path: Path
) -> None:
    arguments = (series, "--model", model_path, "--out", tmp_path / "out")
    denoise(*arguments)
    first = tmp_path / "out" / "series" / "00001.dcm"
    written_at = first.stat().st_mtime_ns
    assert "done before" in denoise(*arguments)
    assert first.stat().st_mtime_ns == written_at
    settings = cell(3, residual=True, norm="group")
    save_model(model_path, build_network(settings), settings, {"run": "other"})
    assert "done before" not in denoise(*arguments)
    np.testing.assert_array_equal(read_series(tmp_path / "out" / "series"), read_series(series))


@pytest.mark.slow
def test_nothing_half_written_is_left_by_a_kill(model_path: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "long", chest(120), SPACING)
    words = ("denoise", tmp_path / "long", "--model", model_path, "--out", tmp_path / "out", "--threads", "1")
    command = [sys.executable, "-c", "from jobs.commands.cli import main; main()", *map(str, words)]
    process = subprocess.Popen(command)
    wait_for(lambda: any_file(tmp_path, "out/.long.*.tmp/*.dcm") or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "long").exists()
    denoise(tmp_path / "long", "--model", model_path, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "long", "long.json"]
    assert len(list((tmp_path / "out" / "long").iterdir())) == 120


def test_deidentified_output_has_no_name_of_the_patient_anywhere(model_path: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "Doe_Jane", chest(16), SPACING, patient="Doe^Jane", PatientBirthDate="19700101")
    denoise(tmp_path / "Doe_Jane", "--model", model_path, "--out", tmp_path / "out", "--deidentify")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 16 + 2
    for path in files:
        assert b"Doe" not in path.read_bytes()
        assert b"19700101" not in path.read_bytes()
        assert "Doe" not in str(path.relative_to(tmp_path))


def test_padding_beyond_int16_becomes_air(model_path: Path, tmp_path: Path) -> None:
    """-2000 of signed pixels, as unsigned ones of an intercept of -1024 hold it: 62512 HU."""

    def pad(image: FileDataset) -> None:
        stored = image.pixel_array.copy()
        stored[:6] = 63536
        image.PixelData = stored.tobytes()
        image.add_new("PixelPaddingValue", "US", 63536)

    for path in write_series(tmp_path / "padded", chest(4), SPACING):
        edit(path, pad)
    for kind in ("dicom", "nifti"):
        denoise(tmp_path / "padded", "--model", model_path, "--out", tmp_path / "out", "--format", kind)
    hu = read_series(tmp_path / "out" / "padded")
    assert (hu[:, :6] == -1024).all()
    assert hu.max() < 200
    np.testing.assert_array_equal(hu, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / "out/padded.nii.gz")))
    assert dcmread(tmp_path / "out" / "padded" / "00001.dcm").PixelPaddingValue == -1024


def test_a_padding_range_across_the_end_of_int16_spares_the_body(model_path: Path, tmp_path: Path) -> None:
    """From 28976 HU, which int16 holds, to 62512 HU, which becomes air."""

    def pad(image: FileDataset) -> None:
        stored = image.pixel_array.copy()
        stored[:3], stored[3:6] = 30000, 63536
        image.PixelData = stored.tobytes()
        image.add_new("PixelPaddingValue", "US", 63536)
        image.add_new("PixelPaddingRangeLimit", "US", 30000)

    for path in write_series(tmp_path / "padded", chest(4), SPACING):
        edit(path, pad)
    denoise(tmp_path / "padded", "--model", model_path, "--out", tmp_path / "out")
    image = dcmread(tmp_path / "out" / "padded" / "00001.dcm")
    assert (image.PixelPaddingValue, image.PixelPaddingRangeLimit) == (28976, 32767)
    assert (image.pixel_array[:3] == 28976).all()
    assert (image.pixel_array[3:6] == -1024).all()
    hu = open_dicom([*(tmp_path / "out" / "padded").glob("*.dcm")]).planes(0, 4)
    assert (hu[:, :6] == -1024).all()
    np.testing.assert_array_equal(hu[:, 6:], read_series(tmp_path / "out" / "padded")[:, 6:].clip(-1024))


def test_an_enhanced_file_becomes_a_classic_series(model_path: Path, tmp_path: Path) -> None:
    write_enhanced(tmp_path / "enhanced" / "all.dcm", chest(17), SPACING)
    denoise(tmp_path / "enhanced", "--model", model_path, "--out", tmp_path / "out")
    assert read_series(tmp_path / "out" / "enhanced").shape == (17, 64, 64)


def test_an_empty_path_is_not_the_working_folder(series: Path, model_path: Path, tmp_path: Path) -> None:
    for scan, out in ((series, ""), ("", tmp_path / "out")):
        assert "it is empty: write . for" in denoise(scan, "--model", model_path, "--out", out)


def test_wrong_input_is_refused_with_its_reason(series: Path, model_path: Path, tmp_path: Path) -> None:
    def refused(scan: Path, match: str, *arguments: object) -> None:
        with pytest.raises(UserError, match=match):
            denoise(scan, "--model", model_path, "--out", tmp_path / "out", *arguments)

    refused(tmp_path / "absent", "absent does not exist")
    write_series(tmp_path / "two", chest(2), SPACING)
    refused(tmp_path / "two", r"^\S*/two: the scan has 2 slices, wanted at least 3")
    for path in write_series(tmp_path / "mr", chest(4), SPACING):
        change(path, Modality="MR")
    refused(tmp_path / "mr", "holds no CT series: modality is MR, wanted CT")
    for path in write_series(tmp_path / "comma", chest(4), SPACING):
        path.write_bytes(path.read_bytes().replace(b"0.703125\\0.703125", b"0,703125\\0,703125"))
    name = min(path.name for path in (tmp_path / "comma").iterdir())
    refused(
        tmp_path / "comma", rf"holds no CT series: file {name}: PixelSpacing is 0,703125\\0,703125, wanted 2 numbers"
    )
    write_series(tmp_path / "both" / "a", chest(4), SPACING)
    write_series(tmp_path / "both" / "b", chest(4), SPACING)
    refused(tmp_path / "both", "holds 2 CT series, wanted one")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no CT series: no file is a DICOM image")
    write_series(tmp_path / "bright", chest(4) + np.int16(1500), SPACING)
    refused(tmp_path / "bright", "file 1 of 4 .by name. has values from 500 to 1550, which are no HU")
    assert not (tmp_path / "out" / "bright").exists()
    for path in write_series(tmp_path / "metal", chest(4), SPACING):
        change(path, PixelData=b"\xff\xff" + dcmread(path).PixelData[2:])
    refused(tmp_path / "metal", "file 1 of 4 .by name. holds 64511, which is no HU: a scanner gives at most 32767")
    with pytest.raises(UserError, match="no readable file of safetensors"):
        denoise(series, "--model", series / next(series.iterdir()).name, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("image", "name", "reason"),
    [
        (nib.nifti1.Nifti1Pair, "a.hdr", "is half of a pair (.hdr and .img) of Analyze or NIfTI"),
        (nib.nifti1.Nifti1Pair, "a.img", "is half of a pair (.hdr and .img) of Analyze or NIfTI"),
        (nib.analyze.AnalyzeImage, "a.hdr", "is half of a pair (.hdr and .img) of Analyze or NIfTI"),
        (nib.freesurfer.mghformat.MGHImage, "a.mgh", "is no DICOM file"),
    ],
)
def test_a_file_of_another_format_is_refused_with_what_is_wanted(
    image: Any, name: str, reason: str, model_path: Path, tmp_path: Path
) -> None:
    nib.save(image(chest(4, 16).transpose(2, 1, 0), np.diag([-0.7, -0.7, 2.5, 1])), tmp_path / name)
    accepted = ", wanted a folder of DICOM files, a NIfTI file (.nii or .nii.gz) or a Zarr pair"
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / name}: {reason}{accepted}")):
        denoise(tmp_path / name, "--model", model_path, "--out", tmp_path / "out")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("u2", "slice 1 of 4 .from the feet. has values from 24 to 1074, which are no HU"),
        ("f4", "slice 1 of 4 .from the feet. holds NaN or infinity"),
    ],
)
def test_voxels_that_are_no_hu_refuse_their_file_alone(
    kind: str, reason: str, model_path: Path, tmp_path: Path
) -> None:
    voxels = (chest(4).transpose(2, 1, 0) + 1024).astype(kind)
    if kind == "f4":
        voxels[:5] = np.nan
    nib.save(nib.nifti1.Nifti1Image(voxels, np.diag([-0.7, -0.7, 2.5, 1])), tmp_path / "other.nii.gz")
    write_nifti(tmp_path / "good.nii.gz", chest(4))
    scans, options = (tmp_path / "other.nii.gz", tmp_path / "good.nii.gz"), ("--format", "nifti")
    with pytest.raises(UserError, match=rf"1 of 2 scans .*other\.nii\.gz: {reason}"):
        denoise(*scans, "--model", model_path, "--out", tmp_path / "out", *options)
    assert (tmp_path / "out" / "good.nii.gz").exists()


@pytest.mark.parametrize("kind", ["nifti", "bimcv"])
def test_a_denoised_file_below_a_source_is_no_full_dose(kind: str, model_path: Path, tmp_path: Path) -> None:
    """It would also be another patient, trained on where the scan itself is tested on."""
    scan = tmp_path / "source" / "sub-S03693_ses-E1_run-2_bp-chest_ct.nii.gz"
    write_nifti(scan, chest(8))
    denoise(scan, "--model", model_path, "--out", tmp_path / "source" / "denoised", "--format", "nifti")
    discovery = find(tmp_path / "source", kind=kind)
    (series,), (exclusion,) = discovery.series, discovery.exclusions
    assert series.files == (scan,)
    assert (exclusion.reason, exclusion.images) == ("denoised by this program, not a scanner's dose", 1)
    assert exclusion.files == (tmp_path / "source" / "denoised" / scan.name,)


def test_planes_whose_rows_and_columns_are_at_no_right_angle_become_no_dicom(model_path: Path, tmp_path: Path) -> None:
    sheared = np.diag([-0.7, -0.7, 2.5, 1])
    sheared[0, 1] = 0.012 * 0.7
    nib.save(nib.nifti1.Nifti1Image(chest(4).transpose(2, 1, 0), sheared), tmp_path / "sheared.nii.gz")
    arguments = (tmp_path / "sheared.nii.gz", "--model", model_path, "--out", tmp_path / "out")
    with pytest.raises(UserError, match=r"rows and columns meet at 90\.69 degrees, .* --format nifti or"):
        denoise(*arguments)
    denoise(*arguments, "--format", "nifti")
    written = nib.nifti1.Nifti1Image.from_filename(tmp_path / "out" / "sheared.nii.gz")
    np.testing.assert_allclose(np.abs(written.affine[0, 1]), 0.0084, rtol=1e-5)


def test_a_dicom_file_is_read_whatever_its_ending(model_path: Path, tmp_path: Path) -> None:
    write_enhanced(tmp_path / "all.img", chest(5), SPACING)
    denoise(tmp_path / "all.img", "--model", model_path, "--out", tmp_path / "out")
    assert read_series(tmp_path / "out" / "all.img").shape == (5, 64, 64)


def test_the_published_checkpoint_becomes_a_model(series: Path, tmp_path: Path) -> None:
    weights, to = shared_file("ddnet/published_2d_weights.npz"), tmp_path / "published.safetensors"
    said = CliRunner().invoke(app, ["import-model", str(weights), "--to", str(to)], catch_exceptions=False).output
    assert load_model(to).digest in said
    assert "Not judged" in (tmp_path / "published-card.md").read_text()
    denoise(series, "--model", to, "--out", tmp_path / "out")
    assert len(list((tmp_path / "out" / "series").iterdir())) == 24


def test_a_network_that_is_told_the_dose_wants_it(series: Path, tmp_path: Path) -> None:
    settings = cell(2, tell_dose=True)
    torch.manual_seed(0)
    network = build_network(settings)
    torch.nn.init.normal_(network.get_parameter("up.3.reduce.conv.weight"), std=0.02)
    save_model(tmp_path / "told.safetensors", network, settings, {})
    command = (series, "--model", tmp_path / "told.safetensors", "--format", "zarr", "--out")
    with pytest.raises(UserError, match="trained to be told the dose: say it with --dose"):
        denoise(*command, tmp_path / "none")
    for dose in ("0", "-1", "2", "nan"):
        with pytest.raises(UserError, match=f"--dose {dose} is no fraction of the full dose, wanted above 0 and at"):
            denoise(*command, tmp_path / "none", "--dose", dose)
    outputs = []
    for dose in ("0.1", "0.25"):
        denoise(*command, tmp_path / dose, "--dose", dose)
        outputs.append(zarr.open_array(tmp_path / dose / "series.zarr" / "denoised")[:])
    assert np.any(outputs[0] != outputs[1])
    assert "done before" in denoise(*command, tmp_path / "0.1", "--dose", "0.1")
    assert "done before" not in denoise(*command, tmp_path / "0.1", "--dose", "0.25")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "0.1" / "series.zarr" / "denoised")[:], outputs[1])


def test_a_dose_is_refused_where_it_has_no_effect(series: Path, model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dose has no effect"):
        denoise(series, "--model", model_path, "--out", tmp_path / "out", "--dose", "0.1")
