"""Whose scans they are, where ids are missing or names are the same."""

from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from data_prep.errors import UserError
from data_prep.pseudonym import pseudonym
from tests.data_prep.dicom_series import change
from tests.data_prep.scan_checks import check_scan, find, write
from tests.scans import chest, write_nifti


def test_a_series_in_two_folders_without_a_patient_is_one_scan_of_its_study(tmp_path: Path) -> None:
    files = write(tmp_path / "S01", 8, PatientID="", StudyInstanceUID="1.2.3")
    (tmp_path / "S02").mkdir()
    files = files[:4] + [path.rename(tmp_path / "S02" / path.name) for path in files[4:]]
    (series,) = find(tmp_path).series
    check_scan(series, files)
    assert series.subject == f"p-{pseudonym('1.2.3')}"


def test_series_without_any_id_are_one_patient_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        for folder in (root, root / "sub"):
            write(folder, 4, PatientID="", SeriesInstanceUID="")
    discovery = find(*roots)
    assert len({series.scan for series in discovery.series}) == 4
    assert [series.subject for series in discovery.series[:2]] == [discovery.series[0].subject] * 2
    assert len({series.subject for series in discovery.series}) == 2  # a patient a source
    assert capsys.readouterr().out.count("2 scans with neither PatientID nor StudyInstanceUID") == 2
    for series in discovery.series:
        check_scan(series, list(series.files[0].parent.glob("*.dcm")))


def test_the_same_names_in_two_sources_are_two_scans_but_the_same_files_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_nifti(tmp_path / name / "scan.nii", chest(3))
    discovery = find(tmp_path / "one", tmp_path / "two", kind="nifti")
    assert len({series.scan for series in discovery.series}) == 2
    assert len({series.subject for series in discovery.series}) == 2
    with pytest.raises(
        UserError, match=r"two series have the id .* a scan may be listed once, so leave one of them out$"
    ):
        find(tmp_path / "one", tmp_path / "one", kind="nifti")
    uid = generate_uid()
    for name in ("a", "b"):
        write(tmp_path / name, 4, SeriesInstanceUID=uid)
    with pytest.raises(UserError, match="two series have the id"):
        find(tmp_path / "a", tmp_path / "b")


def test_a_patient_in_files_of_several_character_sets_is_one(tmp_path: Path) -> None:
    for number, characters in enumerate(("ISO_IR 100", "ISO_IR 192", ["ISO 2022 IR 6", "ISO 2022 IR 100"])):
        write(tmp_path / str(number), 4, PatientID="Müller-7", SpecificCharacterSet=characters)
    write(tmp_path / "decomposed", 4, PatientID="Mu\u0308ller-7", SpecificCharacterSet="ISO_IR 192")
    undeclared = write(tmp_path / "undeclared", 4, PatientID="Müller-7", SpecificCharacterSet="ISO_IR 192")
    for path in undeclared:
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 192", b" " * 10))
    write(tmp_path / "Cyrillic", 4, PatientID="Иван", SpecificCharacterSet="ISO_IR 144")
    subjects = [series.subject for series in find(tmp_path).series]
    assert sorted(subjects) == sorted([f"p-{pseudonym('Müller-7')}"] * 5 + [f"p-{pseudonym('Иван')}"])


def test_slices_of_a_series_in_two_character_sets_are_one_scan(tmp_path: Path) -> None:
    files = write(tmp_path, 8, PatientID="Müller-7", SpecificCharacterSet="ISO_IR 100")
    for path in files[1::2]:
        change(path, SpecificCharacterSet="ISO_IR 192")
    (series,) = find(tmp_path).series
    check_scan(series, files)
