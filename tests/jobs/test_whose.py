"""``quarterdose whose``: the owner alone learns which files an id stands for."""

import os
from pathlib import Path

import pytest

from data_prep.cache import write_cache
from data_prep.pseudonym import file_pseudonym
from data_prep.settings import SourceSettings
from data_prep.sources.discovery import discover
from tests.command_line import quarterdose_within
from tests.data_prep.dicom_series import write_series
from tests.scans import chest, write_nifti

SPACING = (2.5, 0.7, 0.7)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder of DICOM whose series lie in two folders, a broken file and a single slice; it was looked through."""
    root = tmp_path / "scans"
    files = write_series(root / "Doe_Jane", chest(4, 16), SPACING)
    (root / "second").mkdir()
    files[-1].rename(root / "second" / "last.dcm")
    (root / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"broken" * 9)
    write_series(root / "single", chest(1, 16), SPACING, patient="Roe")
    discover([SourceSettings(kind="dicom", path=root)])
    return root


def ask(folder: Path, identifier: str) -> list[str]:
    answer = quarterdose_within(folder, "whose", identifier)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()


def test_each_id_of_a_manifest_leads_to_its_files(scans: Path, tmp_path: Path) -> None:
    discovery = discover([SourceSettings(kind="dicom", path=scans)])
    (series,) = discovery.series
    expected = [f"{series.scan}: {scans}/Doe_Jane/1-", f"{series.scan}: {scans / 'second' / 'last.dcm'}"]
    for identifier in (series.scan, series.subject):
        first, second = ask(tmp_path, identifier)
        assert first.startswith(expected[0])
        assert first.endswith(" and 2 more there")
        assert second == expected[1]
    broken = file_pseudonym("broken.dcm")
    assert ask(tmp_path, broken) == [f"{broken}: {scans / 'broken.dcm'}"]
    member = file_pseudonym("second/last.dcm")
    assert ask(tmp_path, member) == [f"{member}: {scans / 'second' / 'last.dcm'}"]
    single = next(exclusion for exclusion in discovery.exclusions if exclusion.reason == "a single slice")
    assert ask(tmp_path, single.scan) == [f"{single.scan}: {single.files[0]}"]


def test_a_nifti_file_is_named(tmp_path: Path) -> None:
    write_nifti(tmp_path / "nifti" / "Doe.nii.gz", chest(3, 16))
    (series,) = discover([SourceSettings(kind="nifti", path=tmp_path / "nifti")]).series
    assert ask(tmp_path, series.scan) == [f"{series.scan}: {tmp_path / 'nifti' / 'Doe.nii.gz'}"]


@pytest.mark.parametrize("identifier", ["p-0000000000", "x-0000000000", "", "../../etc", "p-1a2b…"])
def test_an_unknown_id_gets_one_sentence(identifier: str, scans: Path, tmp_path: Path) -> None:
    answer = quarterdose_within(tmp_path, "whose", identifier)
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.startswith(f"quarterdose: {identifier!r} is no id of a patient, a scan or a file")


def test_a_damaged_cache_is_no_answer_and_no_fault(scans: Path, tmp_path: Path) -> None:
    (cache,) = (Path(os.environ["XDG_CACHE_HOME"]) / "quarterdose" / "found").iterdir()
    assert cache.stat().st_mode & 0o777 == 0o600
    for content in ("[[1", "{}"):
        cache.write_text(content)
        assert quarterdose_within(tmp_path, "whose", "p-0000000000").returncode == 2
    write_cache(cache, 3, {"series": [3]})  # with a checksum that fits
    assert quarterdose_within(tmp_path, "whose", "p-0000000000").returncode == 2
