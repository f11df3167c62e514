"""Sources on trees of real layouts; the pixels are toys, or the real ones where a test says so."""

import errno
import gc
import gzip
import json
import shutil
from contextlib import suppress
from itertools import product
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError

from data_prep.errors import UserError
from data_prep.settings import SourceSettings
from data_prep.sources.kinds import KINDS, OPENERS, Kind
from tests.beside import shared_file
from tests.data_prep.dicom_series import change, write_series
from tests.data_prep.scan_checks import find, reasons
from tests.scans import Hu, chest, write_nifti

SPACING = (2.5, 0.703125, 0.703125)
SR = "1.2.840.10008.5.1.4.1.1.88.22"


def test_discovery_leaves_the_collector_of_garbage_as_it_was(tmp_path: Path) -> None:
    thresholds = gc.get_threshold()
    write_series(tmp_path, chest(4), SPACING)
    for path in (tmp_path, tmp_path / "absent"):
        with suppress(UserError):
            find(path, kind="dicom")
        assert gc.get_threshold() == thresholds


def test_discovery_keeps_no_identifier(tmp_path: Path) -> None:
    write_series(tmp_path / "Doe_Jane" / "one", chest(4), SPACING, patient="Doe^Jane")
    write_series(tmp_path / "Doe_Jane" / "two", chest(4), SPACING, patient="Doe^Jane")
    write_series(tmp_path / "Roe", chest(4), SPACING, patient="Roe^Max")
    discovery = find(tmp_path, kind="dicom")
    assert len({series.scan for series in discovery.series}) == 3
    assert len({series.subject for series in discovery.series}) == 2
    assert not any("Doe" in series.scan or "Roe" in series.scan for series in discovery.series)
    assert discovery == find(tmp_path, kind="dicom")


def test_series_of_one_folder_are_told_apart_and_what_is_no_ct_is_set_aside(tmp_path: Path) -> None:
    soft = write_series(tmp_path, chest(5), SPACING, first="1", ConvolutionKernel="B30f")
    sharp = write_series(tmp_path, chest(5), SPACING, first="2", ConvolutionKernel="B70f")
    scouts = write_series(tmp_path, chest(2), SPACING, first="3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path, chest(1), SPACING, first="4", Modality="SR", SOPClassUID=SR)
    write_series(tmp_path, chest(1), SPACING, first="5", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    change(write_series(tmp_path, chest(1), SPACING, first="6")[0], PixelData=None, Rows=None)
    single = write_series(tmp_path, chest(1), SPACING, first="7")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(50))
    (tmp_path / "notes.xml").write_text("<nodule/>")
    (tmp_path / "raw.bin").write_bytes(bytes(500))
    for path in [*soft, *sharp, *scouts]:  # all of one scan without an id, as some archives leave it
        change(path, SeriesInstanceUID="", SeriesDescription="Doe")
    assert len(single) == 1
    discovery = find(tmp_path, kind="dicom")
    assert sorted(len(series.files) for series in discovery.series) == [5, 5]
    kernels = {series.open(series.files).acquisition.kernel for series in discovery.series}
    assert kernels == {"B30f", "B70f"}
    assert reasons(discovery) == [
        "a localizer",
        "a secondary capture, not a scanner's image",
        "a single slice",
        "holds no image: lacks Rows",
        "modality is SR, wanted CT",
    ]
    chosen = find(tmp_path, kind="dicom", kernel="B70f")
    assert [series.open(series.files).acquisition.kernel for series in chosen.series] == ["B70f"]
    assert "kernel B30f, wanted B70f" in reasons(chosen)


def test_two_real_kernels_in_one_folder_are_two_scans(tmp_path: Path) -> None:
    folder = shared_file("ct/Lung_Dx-A0002")
    for number, path in enumerate(folder.rglob("*.dcm")):
        shutil.copy(path, tmp_path / f"{number}.dcm")
    discovery = find(tmp_path, kind="dicom")
    opened = [series.open(series.files) for series in discovery.series]
    assert sorted((scan.slices, scan.acquisition.kernel) for scan in opened) == [(30, "B40f"), (30, "B70f")]
    assert not discovery.exclusions


def test_lidc_takes_one_ct_series_a_patient_in_both_folder_styles(tmp_path: Path) -> None:
    uid, nbia = tmp_path / "LIDC-IDRI-0001" / "1.3.6.1" / "1.3.6.2", tmp_path / "LIDC-IDRI-0002" / "01-01-2000-30178"
    write_series(uid, chest(6), SPACING, patient="LIDC-IDRI-0001")
    write_series(nbia / "3000566.000000-03192", chest(8), SPACING, patient="LIDC-IDRI-0002", SliceThickness=2.5)
    write_series(nbia / "3000567.000000-03193", chest(5), SPACING, patient="LIDC-IDRI-0002")
    write_series(nbia / "3000568.000000-03194", chest(8), SPACING, patient="LIDC-IDRI-0002", SliceThickness=5)
    write_series(nbia / "3000569.000000-03195", chest(8), SPACING, patient="LIDC-IDRI-0002", SliceThickness=0)
    write_series(tmp_path / "LIDC-IDRI-0001" / "dx", chest(2), SPACING, patient="LIDC-IDRI-0001", Modality="DX")
    write_series(tmp_path / "LIDC-IDRI-0003" / "a", chest(4), SPACING, patient="")
    write_series(tmp_path / "other", chest(4), SPACING, patient="Doe^Jane")
    (uid / "069.xml").write_text("<LidcReadMessage/>")
    discovery = find(tmp_path, kind="lidc")
    by_subject = {series.subject: series for series in discovery.series}
    assert sorted(name for name in by_subject if name.startswith("LIDC")) == [f"LIDC-IDRI-000{n}" for n in (1, 2, 3)]
    assert len([name for name in by_subject if name.startswith("p-")]) == 1  # an id unlike the set's is hidden
    assert by_subject["LIDC-IDRI-0002"].location.name == "3000566.000000-03192"
    assert [r.split("'s")[0] for r in reasons(discovery)] == ["modality is DX, wanted CT", *["the patient"] * 3]
    hidden = find(tmp_path, kind="lidc", keep_ids=False)
    assert not any("LIDC" in series.subject for series in hidden.series)


def test_lidc_series_that_tell_no_patient_are_all_taken(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, chest(4), SPACING, patient="")
    discovery = find(tmp_path, kind="lidc")
    assert sorted(series.location.name for series in discovery.series) == ["a", "b"]
    assert len({series.subject for series in discovery.series}) == 1
    assert discovery.exclusions == []


def test_nifti_files_of_one_name_are_two_patients_unless_the_name_tells_a_patient(tmp_path: Path) -> None:
    for folder, name in product("ab", ("ct", "sub-01_ct", "sub-02")):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_nifti(tmp_path / folder / f"{name}.nii", chest(3))
    for keep_ids in (True, False):
        discovery = find(tmp_path, kind="nifti", keep_ids=keep_ids)
        assert len({series.scan for series in discovery.series}) == 6
        patients = {(series.location.name, series.subject) for series in discovery.series}
        assert sorted(name for name, _ in patients) == ["ct.nii", "ct.nii", "sub-01_ct.nii", "sub-02.nii"]


@pytest.mark.parametrize("kind", ["nifti", "bimcv"])
def test_a_packed_copy_beside_a_file_is_set_aside_and_another_volume_there_is_another_scan(
    kind: str, tmp_path: Path
) -> None:
    for name in ("sub-S1_ct", "sub-S2_ct"):
        write_nifti(tmp_path / f"{name}.nii", chest(9))
        (tmp_path / f"{name}.nii.gz").write_bytes(gzip.compress((tmp_path / f"{name}.nii").read_bytes()))
    write_nifti(tmp_path / "sub-S2_ct.nii.gz", chest(10))
    for keep_ids in (True, False):
        discovery = find(tmp_path, kind=kind, keep_ids=keep_ids)
        assert sorted(series.location.name for series in discovery.series) == [
            "sub-S1_ct.nii",
            "sub-S2_ct.nii",
            "sub-S2_ct.nii.gz",
        ]
        assert len({series.scan for series in discovery.series}) == 3
        assert len({series.subject for series in discovery.series}) == 2
        assert reasons(discovery) == ["a packed copy of the file beside it"]


@pytest.mark.parametrize(
    ("name", "subject"),
    [("sub-01_ct", "sub-01"), ("sub-01.1", "sub-01"), ("sub-01-02", "sub-01-02"), ("xsub-01_ct", "xsub-01_ct")],
)
def test_a_name_tells_the_patient_by_a_whole_entity(name: str, subject: str, tmp_path: Path) -> None:
    write_nifti(tmp_path / f"{name}.nii", chest(3))
    (series,) = find(tmp_path, kind="nifti", keep_ids=True).series
    assert (series.subject, series.scan) == (subject, name)


def test_the_real_lidc_patient_is_found() -> None:
    discovery = find(shared_file("ct/LIDC-IDRI-0003"), kind="lidc")
    assert [(series.subject, len(series.files)) for series in discovery.series] == [("LIDC-IDRI-0003", 140)]


def bids(root: Path, subject: str, run: int, hu: Hu | None = None, axes: str = "LAS", **sidecar: Any) -> Path:
    name = f"{subject}_ses-E08061_run-{run}_bp-chest_ct"
    folder = root / subject / "ses-E08061" / "mod-rx"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.nii.gz"
    if hu is not None:
        image = nib.Nifti1Image(hu[:, ::-1].transpose(2, 1, 0), np.diag([-0.7, 0.7, 2.5, 1.0]))
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
        nib.save(image.as_reoriented(turn), path)
    if sidecar:
        (folder / f"{name}.json").write_text(json.dumps(sidecar))
    return path


def test_bimcv_takes_axial_ct_alone(tmp_path: Path) -> None:
    kernel: dict[str, Any] = {"00181210": {"vr": "SH", "Value": ["B60f"]}, "00180060": {"vr": "DS", "Value": [120]},
              "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]}}  # fmt: skip
    bids(tmp_path, "sub-S03693", 2, chest(40), **kernel)
    bids(tmp_path, "sub-S03693", 3, chest(40), "LPS", ConvolutionKernel="B30f", KVP="100")
    bids(tmp_path, "sub-S03693", 4, chest(40, 60), "LSA")
    bids(tmp_path, "sub-S03693", 5, chest(7))
    bids(tmp_path, "sub-S03693", 8, chest(8))
    bids(tmp_path, "sub-S03693", 6, chest(40), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    bids(tmp_path, "sub-S03693", 7).write_bytes(b"\x1f\x8b broken")
    (tmp_path / "sub-S03694" / "mod-rx").mkdir(parents=True)
    (tmp_path / "sub-S03694" / "mod-rx" / "sub-S03694_ses-E1_run-1_bp-chest_vp-ap_cr.png").write_bytes(b"png")
    (tmp_path / "participants.tsv").write_text("participant\tage\n")
    discovery = find(tmp_path, kind="bimcv")
    opened = {series.scan: series.open(series.files) for series in discovery.series}
    assert sorted(opened) == [f"sub-S03693_ses-E08061_run-{n}_bp-chest" for n in (2, 3, 8)]
    first, second, _ = (opened[name] for name in sorted(opened))
    assert (first.acquisition.kernel, first.acquisition.kvp) == ("B60f", 120)
    assert (second.acquisition.kernel, second.acquisition.kvp) == ("B30f", 100)
    np.testing.assert_array_equal(first.load().hu, second.load().hu)
    assert {series.subject for series in discovery.series} == {"sub-S03693"}
    assert reasons(discovery) == [
        "a coronal volume, wanted axial slices",
        "a localizer",
        "a scout of 7 slices",
        "an X-ray (cr), wanted ct",
        "no readable NIfTI file: it is cut off",
    ]


def test_a_bimcv_scan_that_cannot_be_opened_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [bids(tmp_path, "sub-S03693", run, chest(40)) for run in (2, 3)]
    open_file = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == paths[0]:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    closed, opened = find(tmp_path, kind="bimcv").series
    assert (closed.files, opened.files) == ((paths[0],), (paths[1],))
    assert opened.open(opened.files).slices == 40
    with pytest.raises(PermissionError):  # which `prepare` records as this machine's fault
        closed.open(closed.files)


def test_bids_entities_join_the_scans_of_a_patient(tmp_path: Path) -> None:
    for name in ("sub-01_run-1.nii.gz", "sub-01_run-2.nii.gz", "sub-02.nii.gz", "other.nii.gz"):
        write_nifti(tmp_path / name, chest(3))
    subjects = [series.subject for series in find(tmp_path, kind="nifti", keep_ids=True).series]
    assert sorted(subjects) == ["other", "sub-01", "sub-01", "sub-02"]
    assert len({series.subject for series in find(tmp_path, kind="nifti").series}) == 3


def test_a_name_that_cannot_be_an_id_is_refused_by_its_file(tmp_path: Path) -> None:
    write_nifti(tmp_path / "-x ü.nii", chest(3))
    with pytest.raises(UserError, match=r"-x ü\.nii: its name cannot be an id: .* letter or digit; or leave"):
        find(tmp_path, kind="nifti", keep_ids=True)
    assert len(find(tmp_path, kind="nifti").series) == 1


def test_a_nifti_file_that_was_denoised_is_no_full_dose_of_a_source(tmp_path: Path) -> None:
    for name in ("sub-01.nii.gz", "denoised/sub-01.nii.gz"):
        write_nifti(tmp_path / name, chest(3))
    side_file = tmp_path / "denoised" / "sub-01.nii.gz.json"
    side_file.write_text('{"EchoTime": 1}')  # another program's
    assert len(find(tmp_path, kind="nifti", keep_ids=True).series) == 2
    side_file.write_text('{"quarterdose": "0.1.0", "source_sha256": "00"}')
    discovery = find(tmp_path, kind="nifti", keep_ids=True)
    (series,), (exclusion,) = discovery.series, discovery.exclusions
    assert series.files == (tmp_path / "sub-01.nii.gz",)
    assert exclusion.reason == "denoised by this program, not a scanner's dose"
    with pytest.raises(UserError, match=r"sub-01\.nii\.gz is denoised by this program"):
        find(tmp_path / "denoised" / "sub-01.nii.gz", kind="nifti")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "nifti", "path": "x", "kernel": "B30f"}, "a nifti source has none"),
        ({"kind": "lidc", "path": "x", "low_dose": "measured"}, "with kind mayo alone"),
        ({"kind": "mayo", "thickness_mm": 0}, "greater than 0"),
        ({"kind": "nifti", "dataset": "all"}, "a table's row of that name is of all data sets: choose another name"),
        ({"kind": "nifti", "path": ""}, "is empty, and would be the working folder"),
        ({"kind": "nifti", "dataset": "contact"}, "a data folder has something else of that name"),
        ({"kind": "nifti", "dataset": "manifest.csv"}, "a data folder has something else of that name"),
        ({"kind": "nifti", "dataset": "Fälle 1"}, "Input should be at most 100 letters from a to z or A to Z, digits"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SourceSettings.model_validate(settings)


def test_an_id_that_cannot_be_shown_is_refused_with_the_key_that_hides_it(tmp_path: Path) -> None:
    write_series(tmp_path, chest(4), SPACING, patient="12/34 A")
    with pytest.raises(UserError, match=r"'12/34 A' cannot be an id, wanted at most 100 .*; keep_ids: false shows"):
        find(tmp_path, kind="dicom", keep_ids=True)


def test_a_wrong_kind_is_told_the_valid_ones() -> None:
    *names, last = map(repr, KINDS)
    with pytest.raises(ValidationError, match=f"Input should be {', '.join(names)} or {last}"):
        SourceSettings(kind="moon")


def test_a_kind_that_says_nothing_of_ids_hides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "new", Kind(KINDS["dicom"].finder))
    assert not SourceSettings(kind="new", path=tmp_path).has_public_ids
    write_series(tmp_path, chest(4), SPACING, patient="Doe^Jane")
    (series,) = find(tmp_path, kind="new").series
    assert series.subject.startswith("p-")


@pytest.mark.parametrize("name", [*(kind.finder for kind in KINDS.values()), *OPENERS.values()])
def test_every_finder_and_opener_exists(name: str) -> None:
    assert callable(resolve_name(name))


def test_an_empty_or_absent_place_is_named(tmp_path: Path) -> None:
    for kind in ("dicom", "lidc", "mayo", "bimcv", "nifti"):
        with pytest.raises(UserError, match="holds no"):
            find(tmp_path, kind=kind)
        with pytest.raises(UserError, match="does not exist"):
            find(tmp_path / "absent", kind=kind)
