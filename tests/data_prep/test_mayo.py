"""Measured pairs of Mayo: which series are partners, and which slices."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.errors import UserError
from tests.data_prep.dicom_series import change, write_series
from tests.data_prep.scan_checks import find, reasons
from tests.scans import Hu, chest

SPACING = (2.5, 0.703125, 0.703125)
SR = "1.2.840.10008.5.1.4.1.1.88.22"


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
    discovery = find(tmp_path, kind="mayo")
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
    assert sorted(e.files for e in find(tmp_path, kind="mayo").exclusions) == [(full[7],), (low[0], low[1])]


def test_noise_of_headers_parts_no_mayo_pair(mayo: Mayo, tmp_path: Path) -> None:
    _, low = mayo()
    for path in low:
        change(path, PixelSpacing=["0.7031251"] * 2, ImageOrientationPatient=[1, 1e-6, 0, -1e-6, 1, 0])
    (series,) = find(tmp_path, kind="mayo").series
    assert (len(series.files), len(series.low_files)) == (8, 8)
    for path in low:
        change(path, PixelSpacing=[0.71, 0.71])
    assert not find(tmp_path, kind="mayo").series


def test_a_full_dose_is_paired_within_its_study(tmp_path: Path) -> None:
    """Two examinations of one patient, whose slices lie at the same heights; the second one's low dose may be lost."""
    for study, dose in [("1.2", "Low"), ("1.1", "Full"), ("1.1", "Low"), ("1.2", "Full")]:
        tags = {"StudyInstanceUID": study, "SeriesDescription": f"{dose} Dose Images"}
        write_series(tmp_path / study / dose, chest(8), SPACING, patient="L067", **tags)

    def studies() -> list[tuple[str, str]]:
        names = [
            (s.location.parent.name, s.low_files[0].parent.parent.name) for s in find(tmp_path, kind="mayo").series
        ]
        return sorted(names)

    assert studies() == [("1.1", "1.1"), ("1.2", "1.2")]
    shutil.rmtree(tmp_path / "1.2" / "Low")
    assert studies() == [("1.1", "1.1")]
    for path in (tmp_path / "1.1" / "Low").iterdir():
        change(path, StudyInstanceUID="1.3")  # some archives give each dose a study of its own
    shutil.rmtree(tmp_path / "1.2")
    assert studies() == [("1.1", "1.1")]


def test_a_longer_low_dose_of_another_study_is_no_partner_where_the_studys_own_is_there(tmp_path: Path) -> None:
    """Of a third examination the full dose is not there, or not yet."""
    for study, dose, slices in [("1.1", "Full", 8), ("1.1", "Low", 6), ("1.3", "Low", 8)]:
        tags = {"StudyInstanceUID": study, "SeriesDescription": f"{dose} Dose Images"}
        write_series(tmp_path / study / dose, chest(slices), SPACING, patient="L067", **tags)
    (series,) = find(tmp_path, kind="mayo").series
    assert (len(series.low_files), {path.parent.parent.name for path in series.low_files}) == (6, {"1.1"})


def test_a_low_dose_of_thicker_slices_is_no_partner(tmp_path: Path) -> None:
    """Every third slice of the thin ones lies where a thick one does."""
    for dose, thickness, slices in [("Full", 1, 12), ("Low", 3, 4)]:
        tags: dict[str, Any] = {"SeriesDescription": f"{dose} Dose Images", "SliceThickness": thickness}
        write_series(tmp_path / dose, chest(slices), (float(thickness), 0.7, 0.7), patient="L067", **tags)
    discovery = find(tmp_path, kind="mayo")
    assert not discovery.series
    assert "no low-dose series of its patient, kernel and thickness" in reasons(discovery)


def test_mayo_without_description_is_told_apart_by_its_table(
    mayo: Mayo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full, low = mayo(described=False)
    discovery = find(tmp_path, kind="mayo")
    assert reasons(discovery) == ["neither full nor low dose by its description"] * 2
    root = tmp_path / "LDCT-and-Projection-data"
    with (tmp_path / "metadata.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["Series UID", "Subject ID", "Series Description", "File Location"])
        for files, name in [(full, "Full Dose Images"), (low, "Low Dose Images")]:
            windows = str(files[0].parent.relative_to(tmp_path)).replace("/", "\\")
            table.writerow(["1.2", "C121", name, f".\\{windows}"])
    for folder in (tmp_path, root):
        (series,) = find(folder, kind="mayo").series
        assert (len(series.files), len(series.low_files)) == (8, 8)
    table_text = (tmp_path / "metadata.csv").read_text()
    (tmp_path / "metadata.csv").write_text(f"{table_text}1.3,C121,Low Do")
    assert len(find(root, kind="mayo").series) == 1
    assert "lines without Series Description or File Location are passed over: 1" in capsys.readouterr().out
    (tmp_path / "metadata.csv").write_text("Subject ID,Path\nC121,x\n")
    assert reasons(find(root, kind="mayo")) == ["neither full nor low dose by its description"] * 2
    with pytest.raises(UserError, match=r"metadata\.csv lacks the column Series Description and File Location"):
        find(tmp_path, kind="mayo")


def test_mayo_scans_without_a_partner_say_so_or_are_simulated(mayo: Mayo, tmp_path: Path) -> None:
    mayo("C121")
    _, low = mayo("L014")
    for path in low:
        path.unlink()
    _, sharp = mayo("N005")
    for path in sharp:
        change(path, ConvolutionKernel="sharp")
    discovery = find(tmp_path, kind="mayo")
    assert [series.subject for series in discovery.series] == ["C121"]
    no_partner = "no low-dose series of its patient, kernel and thickness"
    assert reasons(discovery) == ["low dose that is no scan's partner", no_partner, no_partner]
    simulated = find(tmp_path, kind="mayo", low_dose="simulated")
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
    assert len(find(tmp_path, kind="mayo").series) == 3
    (series,) = find(tmp_path, kind="mayo", thickness_mm=1, kernel="B30f").series
    assert {path.parent.name for path in series.files} == {"full_1mm"}
    assert {path.parent.name for path in series.low_files} == {"quarter_1mm"}


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_of_several_low_doses_the_one_with_most_slices_is_the_partner(names: tuple[str, str], tmp_path: Path) -> None:
    tags = {"StudyInstanceUID": "1.1", "patient": "L067"}
    write_series(tmp_path / "full", chest(8), SPACING, SeriesDescription="Full Dose Images", **tags)
    for name, slices in zip(names, (8, 5), strict=True):
        write_series(tmp_path / name, chest(slices), SPACING, SeriesDescription="Low Dose Images", **tags)
    discovery = find(tmp_path, kind="mayo")
    (series,) = discovery.series
    assert (len(series.files), {path.parent.name for path in series.low_files}) == (8, {names[0]})
    assert reasons(discovery) == ["low dose that is no scan's partner"]


@pytest.mark.parametrize(("shift", "pairs"), [(0.02, 8), (0.3, 0), (17.5, 0)])
def test_slices_that_lie_apart_are_no_pair(shift: float, pairs: int, mayo: Mayo, tmp_path: Path) -> None:
    """By 17.5 mm a single slice of each dose lies at a common position."""
    _, low = mayo()
    for z, path in enumerate(low):
        change(path, ImagePositionPatient=[-180.0, -180.0, 2.5 * z + shift])
    discovery = find(tmp_path, kind="mayo")
    assert [len(series.low_files) for series in discovery.series] == [pairs] * bool(pairs)
    assert len(discovery.exclusions) == (0 if pairs else 2)
