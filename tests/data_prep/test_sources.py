"""Sources on trees of real layouts; the pixels are toys, or the real ones where a test says so."""

import csv
import errno
import gc
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError

from data_prep.errors import UserError
from data_prep.settings import SourceSettings
from data_prep.sources.discovery import discover
from data_prep.sources.kinds import KINDS, OPENERS, Kind
from data_prep.sources.series import Discovery
from tests.beside import shared_file
from tests.data_prep.dicom_series import change, write_series
from tests.scans import Hu, chest, write_nifti

SPACING = (2.5, 0.703125, 0.703125)
SR = "1.2.840.10008.5.1.4.1.1.88.22"


def find(kind: str, path: Path, **settings: Any) -> Discovery:
    return discover([SourceSettings.model_validate({"kind": kind, "path": path, **settings})])


def reasons(discovery: Discovery) -> list[str]:
    return sorted(exclusion.reason for exclusion in discovery.exclusions)


def test_discovery_leaves_the_collector_of_garbage_as_it_was(tmp_path: Path) -> None:
    thresholds = gc.get_threshold()
    write_series(tmp_path, chest(4), SPACING)
    for path in (tmp_path, tmp_path / "absent"):
        with suppress(UserError):
            find("dicom", path)
        assert gc.get_threshold() == thresholds


def test_discovery_keeps_no_identifier(tmp_path: Path) -> None:
    write_series(tmp_path / "Doe_Jane" / "one", chest(4), SPACING, patient="Doe^Jane")
    write_series(tmp_path / "Doe_Jane" / "two", chest(4), SPACING, patient="Doe^Jane")
    write_series(tmp_path / "Roe", chest(4), SPACING, patient="Roe^Max")
    discovery = find("dicom", tmp_path)
    assert len({series.scan for series in discovery.series}) == 3
    assert len({series.subject for series in discovery.series}) == 2
    assert not any("Doe" in series.scan or "Roe" in series.scan for series in discovery.series)
    assert discovery == find("dicom", tmp_path)


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
    discovery = find("dicom", tmp_path)
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
    chosen = find("dicom", tmp_path, kernel="B70f")
    assert [series.open(series.files).acquisition.kernel for series in chosen.series] == ["B70f"]
    assert "kernel B30f, wanted B70f" in reasons(chosen)


def test_two_real_kernels_in_one_folder_are_two_scans(tmp_path: Path) -> None:
    folder = shared_file("ct/Lung_Dx-A0002")
    for number, path in enumerate(folder.rglob("*.dcm")):
        shutil.copy(path, tmp_path / f"{number}.dcm")
    discovery = find("dicom", tmp_path)
    opened = [series.open(series.files) for series in discovery.series]
    assert sorted((scan.slices, scan.acquisition.kernel) for scan in opened) == [(30, "B40f"), (30, "B70f")]
    assert not discovery.exclusions


def test_lidc_takes_one_ct_series_a_patient_in_both_folder_styles(tmp_path: Path) -> None:
    uid, nbia = tmp_path / "LIDC-IDRI-0001" / "1.3.6.1" / "1.3.6.2", tmp_path / "LIDC-IDRI-0002" / "01-01-2000-30178"
    write_series(uid, chest(6), SPACING, patient="LIDC-IDRI-0001")
    write_series(nbia / "3000566.000000-03192", chest(8), SPACING, patient="LIDC-IDRI-0002")
    write_series(nbia / "3000567.000000-03193", chest(5), SPACING, patient="LIDC-IDRI-0002")
    write_series(nbia / "3000568.000000-03194", chest(8), SPACING, patient="LIDC-IDRI-0002", SliceThickness=5)
    write_series(tmp_path / "LIDC-IDRI-0001" / "dx", chest(2), SPACING, patient="LIDC-IDRI-0001", Modality="DX")
    write_series(tmp_path / "LIDC-IDRI-0003" / "a", chest(4), SPACING, patient="")
    write_series(tmp_path / "other", chest(4), SPACING, patient="Doe^Jane")
    (uid / "069.xml").write_text("<LidcReadMessage/>")
    discovery = find("lidc", tmp_path)
    by_subject = {series.subject: series for series in discovery.series}
    assert sorted(name for name in by_subject if name.startswith("LIDC")) == [f"LIDC-IDRI-000{n}" for n in (1, 2, 3)]
    assert len([name for name in by_subject if name.startswith("p-")]) == 1  # an id unlike the set's is hidden
    assert by_subject["LIDC-IDRI-0002"].location.name == "3000566.000000-03192"
    assert [r.split("'s")[0] for r in reasons(discovery)] == ["modality is DX, wanted CT", *["the patient"] * 2]
    hidden = find("lidc", tmp_path, keep_ids=False)
    assert not any("LIDC" in series.subject for series in hidden.series)


def test_lidc_series_that_tell_no_patient_are_all_taken(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path / name, chest(4), SPACING, patient="")
    discovery = find("lidc", tmp_path)
    assert sorted(series.location.name for series in discovery.series) == ["a", "b"]
    assert len({series.subject for series in discovery.series}) == 1
    assert discovery.exclusions == []


def test_nifti_files_of_one_name_are_two_patients_unless_the_name_tells_a_patient(tmp_path: Path) -> None:
    for folder, name in (("a", "ct"), ("b", "ct"), ("a", "sub-01_ct"), ("b", "sub-01_ct")):
        (tmp_path / folder).mkdir(exist_ok=True)
        write_nifti(tmp_path / folder / f"{name}.nii", chest(3))
    for keep_ids in (True, False):
        discovery = find("nifti", tmp_path, keep_ids=keep_ids)
        assert len({series.scan for series in discovery.series}) == 4
        patients = {(series.location.name, series.subject) for series in discovery.series}
        assert sorted(name for name, _ in patients) == ["ct.nii", "ct.nii", "sub-01_ct.nii"]


def test_the_real_lidc_patient_is_found() -> None:
    discovery = find("lidc", shared_file("ct/LIDC-IDRI-0003"))
    assert [(series.subject, len(series.files)) for series in discovery.series] == [("LIDC-IDRI-0003", 140)]


Mayo = Callable[..., tuple[list[Path], list[Path]]]


@pytest.fixture
def mayo(tmp_path: Path) -> Mayo:
    """A patient of TCIA's layout, toy pixels: low dose is full dose plus one HU."""

    def write_patient(patient: str = "C121", described: bool = True, low: slice = slice(None), **tags: Any) -> Any:
        study = tmp_path / "LDCT-and-Projection-data" / patient / "12-23-2021-NA-NA-61870"
        series_files = []
        for number, (name, offset) in enumerate([("Full Dose Images", 0), ("Low Dose Images", 1)], start=1):
            folder = study / f"{number}.000000-{name if described else 'Images'}-0095{number}"
            hu: Hu = chest(8) + np.int16(offset)
            files = write_series(folder, hu, SPACING, patient=patient, **tags)
            if described:
                for path in files:
                    change(path, SeriesDescription=name)
            series_files.append(files)
        for path in set(series_files[1]) - set(series_files[1][low]):
            path.unlink()
        return series_files[0], series_files[1][low]

    return write_patient


def test_mayo_pairs_are_matched_by_position(mayo: Mayo, tmp_path: Path) -> None:
    full, low = mayo(low=slice(1, 7))
    discovery = find("mayo", tmp_path)
    (series,) = discovery.series
    assert series.subject == "C121"
    assert (series.files, series.low_files) == (tuple(full[1:7]), tuple(low))
    difference = series.open(series.low_files).load().hu - series.open(series.files).load().hu
    assert np.unique(difference[:, 224:288, 224:288]).tolist() == [1]
    (exclusion,) = discovery.exclusions
    assert (exclusion.images, exclusion.files) == (2, (full[0], full[7]))
    assert exclusion.reason == "slices without the other dose at their position"
    for path in full[:3]:
        path.unlink()
    assert sorted(e.files for e in find("mayo", tmp_path).exclusions) == [(full[7],), (low[0], low[1])]


def test_noise_of_headers_parts_no_mayo_pair(mayo: Mayo, tmp_path: Path) -> None:
    _, low = mayo()
    for path in low:
        change(path, PixelSpacing=["0.7031251"] * 2, ImageOrientationPatient=[1, 1e-6, 0, -1e-6, 1, 0])
    (series,) = find("mayo", tmp_path).series
    assert (len(series.files), len(series.low_files)) == (8, 8)
    for path in low:
        change(path, PixelSpacing=[0.71, 0.71])
    assert not find("mayo", tmp_path).series


def test_a_full_dose_is_paired_within_its_study(tmp_path: Path) -> None:
    """Two examinations of one patient, whose slices lie at the same heights; the second one's low dose may be lost."""
    for study, dose in [("1.2", "Low"), ("1.1", "Full"), ("1.1", "Low"), ("1.2", "Full")]:
        tags = {"StudyInstanceUID": study, "SeriesDescription": f"{dose} Dose Images"}
        write_series(tmp_path / study / dose, chest(8), SPACING, patient="L067", **tags)

    def studies() -> list[tuple[str, str]]:
        names = [(s.location.parent.name, s.low_files[0].parent.parent.name) for s in find("mayo", tmp_path).series]
        return sorted(names)

    assert studies() == [("1.1", "1.1"), ("1.2", "1.2")]
    shutil.rmtree(tmp_path / "1.2" / "Low")
    assert studies() == [("1.1", "1.1")]
    for path in (tmp_path / "1.1" / "Low").iterdir():
        change(path, StudyInstanceUID="1.3")  # some archives give each dose a study of its own
    shutil.rmtree(tmp_path / "1.2")
    assert studies() == [("1.1", "1.1")]


def test_mayo_without_description_is_told_apart_by_its_table(
    mayo: Mayo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, low = mayo(described=False)
    discovery = find("mayo", tmp_path)
    assert reasons(discovery) == ["neither full nor low dose by its description"] * 2
    root = tmp_path / "LDCT-and-Projection-data"
    with (tmp_path / "metadata.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["Series UID", "Subject ID", "Series Description", "File Location"])
        for files, name in [(full, "Full Dose Images"), (low, "Low Dose Images")]:
            windows = str(files[0].parent.relative_to(tmp_path)).replace("/", "\\")
            table.writerow(["1.2", "C121", name, f".\\{windows}"])
    for folder in (tmp_path, root):
        (series,) = find("mayo", folder).series
        assert (len(series.files), len(series.low_files)) == (8, 8)
    table_text = (tmp_path / "metadata.csv").read_text()
    (tmp_path / "metadata.csv").write_text(f"{table_text}1.3,C121,Low Do")
    assert len(find("mayo", root).series) == 1
    assert "lines without Series Description or File Location are passed over: 1" in capsys.readouterr().out
    (tmp_path / "metadata.csv").write_text("Subject ID,Path\nC121,x\n")
    assert reasons(find("mayo", root)) == ["neither full nor low dose by its description"] * 2
    with pytest.raises(UserError, match=r"metadata\.csv lacks the column Series Description and File Location"):
        find("mayo", tmp_path)


def test_mayo_scans_without_a_partner_say_so_or_are_simulated(mayo: Mayo, tmp_path: Path) -> None:
    mayo("C121")
    _, low = mayo("L014")
    for path in low:
        path.unlink()
    _, sharp = mayo("N005")
    for path in sharp:
        change(path, ConvolutionKernel="sharp")
    discovery = find("mayo", tmp_path)
    assert [series.subject for series in discovery.series] == ["C121"]
    no_partner = "no low-dose series of its patient, kernel and thickness"
    assert reasons(discovery) == ["low dose that is no scan's partner", no_partner, no_partner]
    simulated = find("mayo", tmp_path, low_dose="simulated")
    assert sorted(series.subject for series in simulated.series) == ["C121", "L014", "N005"]
    assert not any(series.low_files for series in simulated.series)


def test_the_challenge_of_2016_is_read_in_all_its_kinds(tmp_path: Path) -> None:
    for thickness, suffix, kernel in [(1, "", "B30f"), (3, "", "B30f"), (1, "_sharp", "D45f")]:
        for dose, short in [("full", "FD"), ("quarter", "QD")]:
            kind = f"{dose}_{thickness}mm{suffix}"
            tags: dict[str, Any] = {"patient": "L067", "SliceThickness": thickness, "ConvolutionKernel": kernel}
            files = write_series(tmp_path / kind / "L067" / kind, chest(4), (float(thickness), 0.7, 0.7), **tags)
            for z, path in enumerate(files, start=1):
                path.rename(path.with_name(f"L067_{short}_{thickness}_1.CT.0002.{z:04d}.2016.01.21.IMA"))
    assert len(find("mayo", tmp_path).series) == 3
    (series,) = find("mayo", tmp_path, thickness_mm=1, kernel="B30f").series
    assert {path.parent.name for path in series.files} == {"full_1mm"}
    assert {path.parent.name for path in series.low_files} == {"quarter_1mm"}


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
    bids(tmp_path, "sub-S03693", 5, chest(2))
    bids(tmp_path, "sub-S03693", 6, chest(40), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    bids(tmp_path, "sub-S03693", 7).write_bytes(b"\x1f\x8b broken")
    (tmp_path / "sub-S03694" / "mod-rx").mkdir(parents=True)
    (tmp_path / "sub-S03694" / "mod-rx" / "sub-S03694_ses-E1_run-1_bp-chest_vp-ap_cr.png").write_bytes(b"png")
    (tmp_path / "participants.tsv").write_text("participant\tage\n")
    discovery = find("bimcv", tmp_path)
    opened = {series.scan: series.open(series.files) for series in discovery.series}
    assert sorted(opened) == [f"sub-S03693_ses-E08061_run-{n}_bp-chest" for n in (2, 3)]
    first, second = (opened[name] for name in sorted(opened))
    assert (first.acquisition.kernel, first.acquisition.kvp) == ("B60f", 120)
    assert (second.acquisition.kernel, second.acquisition.kvp) == ("B30f", 100)
    np.testing.assert_array_equal(first.load().hu, second.load().hu)
    assert {series.subject for series in discovery.series} == {"sub-S03693"}
    assert reasons(discovery) == [
        "a coronal volume, wanted axial slices",
        "a localizer",
        "a scout of 2 slices",
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
    closed, opened = find("bimcv", tmp_path).series
    assert (closed.files, opened.files) == ((paths[0],), (paths[1],))
    assert opened.open(opened.files).slices == 40
    with pytest.raises(PermissionError):  # which `prepare` records as this machine's fault
        closed.open(closed.files)


def test_bids_entities_join_the_scans_of_a_patient(tmp_path: Path) -> None:
    for name in ("sub-01_run-1.nii.gz", "sub-01_run-2.nii.gz", "sub-02.nii.gz", "other.nii.gz"):
        write_nifti(tmp_path / name, chest(3))
    subjects = [series.subject for series in find("nifti", tmp_path, keep_ids=True).series]
    assert sorted(subjects) == ["other", "sub-01", "sub-01", "sub-02"]
    assert len({series.subject for series in find("nifti", tmp_path).series}) == 3


def test_a_name_that_cannot_be_an_id_is_refused_by_its_file(tmp_path: Path) -> None:
    write_nifti(tmp_path / "-x ü.nii", chest(3))
    with pytest.raises(UserError, match=r"-x ü\.nii: its name cannot be an id: .* letter or digit; or leave"):
        find("nifti", tmp_path, keep_ids=True)
    assert len(find("nifti", tmp_path).series) == 1


def test_a_nifti_file_that_was_denoised_is_no_full_dose_of_a_source(tmp_path: Path) -> None:
    for name in ("sub-01.nii.gz", "denoised/sub-01.nii.gz"):
        write_nifti(tmp_path / name, chest(3))
    side_file = tmp_path / "denoised" / "sub-01.nii.gz.json"
    side_file.write_text('{"EchoTime": 1}')  # another program's
    assert len(find("nifti", tmp_path, keep_ids=True).series) == 2
    side_file.write_text('{"quarterdose": "0.1.0", "source_sha256": "00"}')
    discovery = find("nifti", tmp_path, keep_ids=True)
    (series,), (exclusion,) = discovery.series, discovery.exclusions
    assert series.files == (tmp_path / "sub-01.nii.gz",)
    assert exclusion.reason == "denoised by this program, not a scanner's dose"
    with pytest.raises(UserError, match=r"sub-01\.nii\.gz is denoised by this program"):
        find("nifti", tmp_path / "denoised" / "sub-01.nii.gz")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "nifti", "kernel": "B30f"}, "a nifti source has none"),
        ({"kind": "lidc", "low_dose": "measured"}, "with kind mayo alone"),
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
        find("dicom", tmp_path, keep_ids=True)


def test_a_wrong_kind_is_told_the_valid_ones() -> None:
    *names, last = map(repr, KINDS)
    with pytest.raises(ValidationError, match=f"Input should be {', '.join(names)} or {last}"):
        SourceSettings(kind="moon")


def test_a_kind_that_says_nothing_of_ids_hides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "new", Kind(KINDS["dicom"].finder))
    assert not SourceSettings(kind="new").has_public_ids
    write_series(tmp_path, chest(4), SPACING, patient="Doe^Jane")
    (series,) = find("new", tmp_path).series
    assert series.subject.startswith("p-")


@pytest.mark.parametrize("name", [*(kind.finder for kind in KINDS.values()), *OPENERS.values()])
def test_every_finder_and_opener_exists(name: str) -> None:
    assert callable(resolve_name(name))


def test_an_empty_or_absent_place_is_named(tmp_path: Path) -> None:
    for kind in ("dicom", "lidc", "mayo", "bimcv", "nifti"):
        with pytest.raises(UserError, match="holds no"):
            find(kind, tmp_path)
        with pytest.raises(UserError, match="does not exist"):
            find(kind, tmp_path / "absent")
