"""From series to pairs, manifest and contact sheets, by the command line and in real processes."""

import json
import math
import os
import re
import resource
import shutil
import subprocess
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from data_prep.errors import MachineError, ScanError
from data_prep.lowdose.matching import match
from data_prep.lowdose.scan_noise import Slab, block_noise, slab_ranges
from data_prep.paths import contact_path
from data_prep.prepare import prepare
from data_prep.settings import DataSettings
from data_prep.sources.discovery import discover
from data_prep.store import Pair
from data_prep.volume import Acquisition, CTVolume
from jobs.engine.worker import work_alone
from jobs.stages.graph import open_graph
from tests.command_line import QUARTERDOSE, quarterdose_within
from tests.data_prep.dicom_series import change, edit, write_series
from tests.data_prep.noisy_scans import Hu, abdomen, bell, coloured
from tests.pairs import simulate
from tests.ranks import run_ranks
from tests.resident import give_back_at_once, resident
from tests.scans import chest, write_nifti

SPACING = (2.5, 0.703125, 0.703125)
SMALL = {"views": 288, "channels": 368, "channel_arc_mm": 2.5716}
TINY = {"views": 32, "channels": 48, "channel_arc_mm": 19.716}  # where nobody looks at the noise


def data_settings(*sources: dict[str, Any], **overrides: Any) -> DataSettings:
    return DataSettings.model_validate({"sources": sources, "low_dose": {"doses": 0.1, "geometry": SMALL}, **overrides})


def test_a_measured_pair_holds_what_was_measured(tmp_path: Path) -> None:
    full = chest(40)
    low = np.clip(full + np.random.default_rng(0).normal(0, 30, full.shape), -1024, 3000).astype(np.int16)
    for name, hu in [("Full", full), ("Low", low)]:
        write_series(tmp_path / "C121" / name, hu, SPACING, patient="C121", SeriesDescription=f"{name} Dose Images",
                     ConvolutionKernel="B30f", KVP=100, Exposure=40)  # fmt: skip
    settings = data_settings({"kind": "mayo", "path": tmp_path / "C121"})
    (series,) = discover(settings.sources).series
    row = prepare(series, settings, tmp_path / "data")
    pair = Pair(tmp_path / "data" / "mayo" / f"{series.scan}.zarr")
    np.testing.assert_array_equal(pair.read("full_dose")[:, 224:288, 224:288], full)
    np.testing.assert_array_equal(pair.read("low_dose")[:, 224:288, 224:288], low)
    assert pair.affine is not None
    first_image = pair.affine @ [224, 224, 0, 1]  # the images' own first voxel, which lies at -180, -180 in LPS
    np.testing.assert_allclose(first_image[:3], [180, 180, 0], atol=1e-9)
    assert pair.provenance["low_dose"] == "measured"
    assert (row["low_dose"], row["kernel"], row["kvp"], row["mas"]) == ("measured", "B30f", 100, 40)
    expected = np.sqrt(((low.astype(float) - full) ** 2).sum() / (40 * 512 * 512))
    assert row["rmse_low_hu"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("equal", [slice(None), slice(37, 38)], ids=["the scan", "a slice"])
def test_a_low_dose_that_is_the_full_dose_is_refused(equal: slice, tmp_path: Path) -> None:
    full = chest(40)
    low = np.clip(full + np.random.default_rng(0).normal(0, 30, full.shape), -1024, 3000).astype(np.int16)
    low[equal] = full[equal]
    for name, hu in [("Full", full), ("Low", low)]:
        write_series(tmp_path / "C121" / name, hu, SPACING, patient="C121", SeriesDescription=f"{name} Dose Images")
    settings = data_settings({"kind": "mayo", "path": tmp_path / "C121"})
    (series,) = discover(settings.sources).series
    number = (equal.start or 0) + 1
    with pytest.raises(ScanError, match=f"equals the full dose in all voxels of slice {number} from the feet"):
        prepare(series, settings, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.zarr"))


def test_a_dose_that_changes_no_voxel_is_named(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", chest(4), SPACING)
    settings = data_settings({"kind": "dicom", "path": tmp_path / "scan"}, low_dose={"doses": [0.25, 0.999999999]})
    (series,) = discover(settings.sources).series
    with pytest.raises(
        ScanError, match=r"^the low dose of 0\.999999999 \(data\.low_dose\.doses\) equals the full dose"
    ):
        prepare(series, settings, tmp_path / "data")


def test_a_low_dose_of_another_field_of_view_is_refused(tmp_path: Path) -> None:
    """Slices at the same heights, of the same size, whose pixels are other places of the patient."""
    for name, x in [("Full", -180), ("Low", -170.5)]:
        files = write_series(tmp_path / name, chest(4, seed=x > -180), SPACING, SeriesDescription=f"{name} Dose Images")
        for z, path in enumerate(files):
            change(path, ImagePositionPatient=[x, -180, z * SPACING[0]])
    settings = data_settings({"kind": "mayo", "path": tmp_path})
    (series,) = discover(settings.sources).series
    with pytest.raises(ScanError, match=r"the low dose lies 9\.50 mm beside the full dose"):
        prepare(series, settings, tmp_path / "data")


def noisy_abdomen(slices: int, side: int = 128) -> Hu:
    """Soft tissue with noise of 12 HU that neighbouring slices share in part."""
    noise = 12 * coloured(side, SPACING[2], bell(0.3), (0.8, 1.0))(slices, 0)
    return np.asarray((abdomen(side, SPACING[2], (42, 40)) + noise).clip(-1024).round().astype(np.int16))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["without noise", "noisy"])
def test_a_scan_in_chunks_equals_a_scan_at_once_on_any_number_of_threads(kind: str, tmp_path: Path) -> None:
    write_series(tmp_path / "a", noisy_abdomen(40) if kind == "noisy" else chest(70), SPACING)
    settings = data_settings({"kind": "dicom", "path": tmp_path / "a"})
    (series,) = discover(settings.sources).series
    rows = [prepare(series, settings, tmp_path / str(threads), threads=threads) for threads in (1, 2)]
    assert rows[0] == rows[1]
    assert bool(rows[0]["noise_full_hu"]) == (kind == "noisy")
    pair = Pair(tmp_path / "1" / "dicom" / f"{series.scan}.zarr")
    volume, model = CTVolume(pair.read("full_dose"), SPACING), None
    if kind == "noisy":
        slabs = [Slab(start, volume.hu[start:stop]) for start, stop in slab_ranges(len(volume.hu))]
        model = match(slabs, block_noise(slabs), settings.low_dose, SPACING[2], Acquisition())
        assert len(model.z_filter) > 1
    low_hu = simulate(volume, settings.low_dose, series.scan, model=model)
    np.testing.assert_array_equal(pair.read("low_dose"), low_hu)
    sheets = [contact_path(tmp_path / threads, "dicom", series.scan).read_bytes() for threads in ("1", "2")]
    assert sheets[0] == sheets[1]


@pytest.mark.slow
def test_the_sheet_shows_the_scan(sample: CTVolume, tmp_path: Path) -> None:
    write_series(tmp_path / "a", sample.hu[20:100:4], (10.0, *sample.spacing[1:]))
    settings = data_settings({"kind": "dicom", "path": tmp_path / "a"})
    (series,) = discover(settings.sources).series
    row = prepare(series, settings, tmp_path / "data")
    with Image.open(tmp_path / "data" / "contact" / "dicom" / f"{series.scan}.png") as sheet:
        grey = np.asarray(sheet.convert("L"), dtype=float)
    middle = sample.hu[20 + 4 * 9]  # the fourth of eight evenly spaced slices of twenty, in the mediastinal window
    assert grey.shape == (44 + 640 + 320, 96 + 1600)
    tile = grey[44 + 320 + 24 : 44 + 480, 96 + 3 * 160 + 24 : 96 + 4 * 160]
    shown = np.clip((middle + 160) / 400, 0, 1) * 255
    # box filter of 3.2 pixels: compare the means of eighths
    expected = shown[77:, 77:].mean()
    assert tile.mean() == pytest.approx(expected, rel=0.03)
    assert 10 < row["noise_full_hu"] < row["noise_added_hu"]
    assert row["noise_low_hu"] == pytest.approx(math.hypot(row["noise_full_hu"], row["noise_added_hu"]), rel=0.1)
    assert row["noise_low_frequency"] == pytest.approx(row["noise_added_frequency"], rel=0.1)


class Workspace:
    """A folder with a settings file, in which preparation runs as a user would run it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "runs" / "p" / "data"

    def _write_settings(self, *sources: dict[str, Any]) -> None:
        settings = {
            "name": "p",
            "data": {"sources": list(sources), "low_dose": {"doses": 0.1, "geometry": TINY}, "max_failed": 0.9,
                     "split": {"gap": 0, "validation": 0.33, "test": 0.33}},
            "study": {"slices": [16]},
        }  # fmt: skip
        (self.folder / "p.yaml").write_text(yaml.safe_dump(settings))

    def run(self, *sources: dict[str, Any], before: Any = None) -> subprocess.CompletedProcess[str]:
        """Run in a process, and workers of it; ``before``: called in it first."""
        self._write_settings(*sources)
        return subprocess.run([str(QUARTERDOSE), "prepare", "p.yaml"], cwd=self.folder, capture_output=True,
                              text=True, check=False, timeout=300, preexec_fn=before)  # fmt: skip

    def run_within(self, *sources: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Run in this process, which is the worker too."""
        self._write_settings(*sources)
        return quarterdose_within(self.folder, "prepare", "p.yaml", "--on", "debug")

    def manifest(self) -> pd.DataFrame:
        return pd.read_csv(self.data / "manifest.csv")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Workspace(tmp_path)


@pytest.mark.slow
def test_each_series_has_its_row_and_its_reason(workspace: Workspace) -> None:
    scans = workspace.folder / "scans"
    for seed, name in enumerate("abc"):
        write_series(scans / name, chest(30, seed=seed), SPACING, patient=name, ConvolutionKernel="B30f", KVP=120)
    gap = write_series(scans / "gap", chest(30), SPACING, patient="gap")
    gap[7].unlink()
    write_series(scans / "scout", chest(2), SPACING, patient="a", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    completed = workspace.run({"kind": "dicom", "path": "scans", "keep_ids": True})
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "dicom: 3 kept" in completed.stdout
    assert "noise to look at in 3 of 3 scans" in completed.stdout
    manifest = workspace.manifest().set_index("subject")
    assert manifest["state"].value_counts().to_dict() == {"kept": 3, "turned away": 2}
    assert str(manifest["reason"]["gap"]).startswith("a slice is missing: 5.00 mm between")
    row = manifest.loc[["b"], ["slices", "kernel", "kvp", "low_dose"]]
    assert row.to_numpy().tolist() == [[30, "B30f", 120, "simulated"]]
    assert "a localizer" in manifest["reason"].tolist()
    assert sorted(p.name for p in (workspace.data / "contact").glob("*.png")) == ["dicom-1.png"]
    verified = quarterdose_within(workspace.folder, "verify", str(workspace.data))
    assert verified.stdout.strip() == "3 pairs in the manifest, 0 faults"
    repeated = quarterdose_within(workspace.folder, "prepare", "p.yaml")
    assert "nothing to do" in repeated.stdout
    change(gap[0], SliceThickness=9)
    scout = write_series(scans / "scout2", chest(2), SPACING, patient="b", Modality="SR")
    extended = workspace.run_within({"kind": "dicom", "path": "scans", "keep_ids": True})
    assert "split/split: set aside changed" in extended.stdout or "split/split: prepare/" in extended.stdout
    assert "modality is SR, wanted CT" in workspace.manifest()["reason"].tolist()
    assert len(scout) == 2


SECRETS = {
    "PatientName": "Zwingli^Huldrych", "PatientID": "HOSP-4711-0815", "PatientBirthDate": "19540229",
    "AccessionNumber": "ACC99887766", "InstitutionName": "Sankt Nimmerlein", "InstitutionAddress": "Nirgendweg 12",
    "ReferringPhysicianName": "Quacksalber^Theo", "OperatorsName": "Knipser^Ida", "StudyDescription": "Thorax Zwingli",
    "SeriesDescription": "Verlauf Zwingli", "StudyID": "ST-31415926", "ProtocolName": "Protokoll Nimmerlein",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.111222333", "DeviceSerialNumber": "SN-27182818",
    "PatientComments": "kennt den Kanzler", "StudyDate": "20190317", "StationName": "CTWACHTURM",
}  # fmt: skip


def planted(image: Any) -> None:
    for name, value in SECRETS.items():
        setattr(image, name, value)
    block = image.private_block(0x0029, "NIMMERLEIN PRIVAT", create=True)
    block.add_new(0x10, "LO", "Geheimnis 1848")


@pytest.mark.slow
def test_no_identifier_is_in_any_byte_that_is_written(workspace: Workspace) -> None:
    """Planted in every header of scans that are kept, refused, failed and set aside; all that is written is grepped."""
    scans = workspace.folder / "scans"
    series = {
        name: write_series(scans / name, chest(60), SPACING) for name in ("whole", "two", "gap", "broken", "closed")
    }
    series["sr"] = write_series(scans / "sr", chest(1), SPACING, Modality="SR")
    uids = set()
    for files in series.values():
        for path in files:
            edit(path, planted)
            uids |= set(re.findall(rb"1\.2\.826\.0\.1\.3680043[0-9.]+", path.read_bytes()))
    change(series["two"][0], PatientID="HOSP-4711-0816")
    series["gap"][5].unlink()
    series["broken"][3].write_bytes(series["broken"][3].read_bytes()[:-100])
    series["closed"][3].unlink()
    series["closed"][3].symlink_to("/proc/self/mem")  # reading it is an input/output error, for root too
    write_series(scans / "number", chest(4), SPACING)
    for path in (scans / "number").iterdir():
        edit(path, planted)
        path.write_bytes(path.read_bytes().replace(b"-1024", b"-1o24"))
    completed = workspace.run({"kind": "dicom", "path": "scans"})
    assert completed.returncode == 1, completed.stdout + completed.stderr
    assert "Input/output error" in completed.stderr
    assert set(workspace.manifest()["state"]) == {"kept", "turned away"}
    words = {part.encode() for value in SECRETS.values() for part in value.split("^")}
    words |= {b"Geheimnis", b"NIMMERLEIN", b"HOSP-4711-0816", *uids}
    assert len(uids) > 100
    written = [*(workspace.folder / "runs").rglob("*"), *(workspace.folder / "cache").rglob("*")]
    assert len(written) > 50
    contents = {str(path.relative_to(workspace.folder)): path.read_bytes() for path in written if path.is_file()}
    contents["terminal"] = (completed.stdout + completed.stderr).encode()
    leaks = [(name, word) for name, content in contents.items() for word in words if word in content + name.encode()]
    assert not leaks


@pytest.mark.slow
def test_a_worker_whose_source_is_gone_names_no_path(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    write_series(workspace.folder / "Doe_Jane", chest(60), SPACING)
    assert workspace.run_within({"kind": "dicom", "path": "Doe_Jane"}).returncode == 0
    scan = workspace.manifest()["scan"][0]
    (workspace.folder / "Doe_Jane").rename(workspace.folder / "gone")
    marker = workspace.folder / "runs" / "p" / "markers" / "prepare" / f"{scan}.json"
    marker.unlink()
    work_alone(open_graph, workspace.folder / "runs" / "p", "prepare", [scan])  # of files that the run has found
    assert json.loads(marker.read_text())["reason"] == "No such file or directory"
    assert "Doe" not in marker.read_text() + "".join(capfd.readouterr())
    shutil.rmtree(workspace.folder / "cache")
    with pytest.raises(
        RuntimeError, match="a fault of quarterdose in existing_path, line"
    ) as caught:  # it must look for itself
        work_alone(open_graph, workspace.folder / "runs" / "p", "prepare", [scan])
    assert "Doe" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
def test_what_cannot_be_opened_fails_is_tried_again_and_the_others_go_on(workspace: Workspace) -> None:
    scans = workspace.folder / "scans"
    for seed, name in enumerate("abc"):
        write_series(scans / name, chest(30, seed=seed), SPACING, patient=name)
    closed = write_series(scans / "closed", chest(30), SPACING, patient="closed")[3]
    content = closed.read_bytes()
    closed.unlink()
    closed.symlink_to("/proc/self/mem")
    completed = workspace.run_within({"kind": "dicom", "path": "scans", "keep_ids": True})
    assert completed.returncode == 1
    assert "which may be a slice of it, cannot be opened (Input/output error)" in completed.stderr
    manifest = workspace.manifest().set_index("subject")
    assert manifest["state"].to_dict() == {
        "a": "kept",
        "b": "kept",
        "c": "kept",
        "closed": "turned away",
        "unknown": "turned away",
    }
    closed.unlink()
    closed.write_bytes(content)
    retried = workspace.run_within({"kind": "dicom", "path": "scans", "keep_ids": True})
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert (workspace.manifest()["state"] == "kept").all()
    assert retried.stdout.count("done after") == 2  # the scan and the split


@pytest.mark.slow
def test_a_full_disk_fails_the_scan_with_its_reason_and_leaves_nothing_half(workspace: Workspace) -> None:
    """No file may grow beyond 2 MB: a shard of toys fits, one of noise does not."""
    scans = workspace.folder / "scans"
    for seed, name in enumerate("abc"):
        write_nifti(scans / f"sub-{name}.nii.gz", chest(16, seed=seed))
    noise = np.random.default_rng(0).integers(-1000, 1000, (30, 512, 512)).astype(np.int16)
    write_nifti(scans / "sub-large.nii", noise)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    (workspace.folder / "tables").mkdir()
    source = {"kind": "nifti", "path": "scans", "keep_ids": True}
    completed = workspace.run(source, before=limit)
    assert completed.returncode == 1, completed.stdout + completed.stderr
    manifest = workspace.manifest().set_index("subject")
    assert manifest["state"].to_dict() == {f"sub-{n}": "kept" for n in "abc"} | {"sub-large": "turned away"}
    assert manifest.loc["sub-large", "reason"] == f"{workspace.data / 'nifti' / 'sub-large.zarr'}: File too large"
    assert sorted(os.listdir(workspace.data / "nifti")) == [f"sub-{n}.zarr" for n in "abc"]
    retried = workspace.run_within(source)
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert (workspace.manifest()["state"] == "kept").all()


def test_a_fault_of_the_source_reaches_the_caller(tmp_path: Path) -> None:
    write_series(tmp_path / "a", chest(4), SPACING)
    settings = data_settings({"kind": "dicom", "path": tmp_path / "a"})
    (series,) = discover(settings.sources).series
    for error in (ScanError("broken"), MachineError("closed")):
        with pytest.raises(type(error), match=str(error)):
            prepare(type(series)(**{**series.__dict__, "fault": error}), settings, tmp_path)


def _prepare_and_measure(_rank: int, settings: DataSettings, folder: Path) -> None:
    torch.set_num_threads(1)
    give_back_at_once()
    (series,) = discover(settings.sources).series
    prepare(series, settings, folder / "data")
    (folder / "peak").write_text(str(resident("VmHWM")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_memory_does_not_grow_with_the_scans_length(kind: str, tmp_path: Path) -> None:
    """A slice is half a MiB in each of both doses: 64 more would be 64 MiB, were they kept."""
    peaks = []
    for slices in (48, 112):
        folder = tmp_path / f"{slices}"
        if kind == "nifti":
            write_nifti(folder / "a.nii.gz", chest(slices, 512))
        else:
            write_series(folder, chest(slices, 512), SPACING)
        settings = data_settings({"kind": kind, "path": folder}, low_dose={"doses": 0.1, "geometry": TINY})
        run_ranks(_prepare_and_measure, (settings, folder), 1)
        peaks.append(int((folder / "peak").read_text()) / 2**20)
    assert peaks[1] - peaks[0] < 30
    assert max(peaks) < 3 * 1024
