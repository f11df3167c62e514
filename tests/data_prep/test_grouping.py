"""Which images are one scan: right values come from SimpleITK, and from positions that pydicom reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from data_prep.readers.dicom import open_series
from tests.data_prep.dicom_series import change, edit, write_enhanced, write_series
from tests.data_prep.scan_checks import Edit, check_scan, find, reason, rotated, set_position, write
from tests.scans import chest

SPACING = (2.5, 0.7, 0.7)


def set_counts(image: FileDataset, number: int, time: str) -> None:
    image.InstanceNumber, image.ContentTime = number, time


NOISE: dict[str, Edit] = {
    "orientation alternates": lambda image, z: rotated(image, 0.005 + (1e-6 if z % 2 else -1e-6)),
    "orientation in halves": lambda image, z: rotated(image, 0.005 + (1e-6 if z < 5 else -1e-6)),
    "orientation at the tolerance": lambda image, z: rotated(image, 0.005 + 5e-5 * (-1) ** z),
    "orientation at random": lambda image, z: rotated(image, 0.005 + np.random.default_rng(z).normal() * 2e-5),
    "spacing": lambda image, z: setattr(image, "PixelSpacing", ["0.7324999" if z % 2 else "0.7325001"] * 2),
    "spacing of 0.9 um": lambda image, z: setattr(image, "PixelSpacing", [0.7 + 0.0009 * (z % 2)] * 2),
    "kernel is empty": lambda image, z: setattr(image, "ConvolutionKernel", "" if z % 2 else "B30f"),
    "kernel in capitals": lambda image, z: setattr(image, "ConvolutionKernel", "STANDARD" if z % 2 else "Standard"),
    "acquisition is empty": lambda image, z: setattr(image, "AcquisitionNumber", None if z % 2 else 1),
    "acquisition of each rotation": lambda image, z: setattr(image, "AcquisitionNumber", z // 2),
    "acquisition of each slice": lambda image, z: setattr(image, "AcquisitionNumber", z * 7 % 10),
    "acquisitions in halves": lambda image, z: setattr(image, "AcquisitionNumber", z // 5),
    "time of each slice": lambda image, z: setattr(image, "AcquisitionTime", f"10101{z * 7 % 10}.25"),
    "series number is empty": lambda image, z: setattr(image, "SeriesNumber", None if z % 2 else 3),
    "image type is longer": lambda image, z: setattr(image, "ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"][: 2 + z % 2]),
    "thickness": lambda image, z: setattr(image, "SliceThickness", "2.5" if z % 2 else "2.500001"),
    "voltage": lambda image, z: setattr(image, "KVP", "120" if z % 2 else "120.0"),
    "patient is empty": lambda image, z: setattr(image, "PatientID", "" if z % 2 else "Doe"),
    "patient with spaces": lambda image, z: setattr(image, "PatientID", "Doe " if z % 2 else " Doe"),
    "number of each slice": lambda image, z: setattr(image, "InstanceNumber", 100 - z),
    "numbers at random": lambda image, z: setattr(image, "InstanceNumber", [4, 7, 1, 9, 3, 2, 8, 5, 10, 6][z]),
    "numbers of each half": lambda image, z: setattr(image, "InstanceNumber", z % 5 + 1),
    "numbers down and up": lambda image, z: setattr(image, "InstanceNumber", z if z < 5 else 20 - z),
    "one number": lambda image, z: setattr(image, "InstanceNumber", 1),
    "times of rotations": lambda image, z: setattr(image, "AcquisitionDateTime", f"2020010110101{z // 2}.25+0100"),
    "creation times of two processes": lambda image, z: set_counts(image, z, f"1010{10 + z % 2 * 20 + z // 2}"),
    "a derived slice": lambda image, z: setattr(
        image, "ImageType", ["DERIVED" if z == 4 else "ORIGINAL", "PRIMARY", "AXIAL"]
    ),
}


@pytest.mark.parametrize("edit_slice", NOISE.values(), ids=NOISE)
def test_noise_of_headers_divides_no_series(edit_slice: Edit, tmp_path: Path) -> None:
    files = write(tmp_path, 10, edit_slice)
    discovery = find(tmp_path)
    (series,) = discovery.series
    check_scan(series, files)
    assert not discovery.exclusions


TELLING: dict[str, tuple[Any, Any]] = {
    "AcquisitionNumber": (1, 2),
    "TemporalPositionIdentifier": (1, 2),
    "NominalPercentageOfCardiacPhase": (30, 70),
    "EchoNumbers": (1, 2),
    "IrradiationEventUID": ("1.2.3.1", "1.2.3.2"),
    "StudyInstanceUID": ("1.2.3.1", "1.2.3.2"),
    "SeriesNumber": (3, 4),
    "SeriesDescription": ("native", "contrast"),
    "FilterType": ("A", "B"),
    "ProtocolName": ("Thorax native", "Thorax KM"),
    "ContrastBolusAgent": ("none", "Ultravist"),
    "TriggerTime": (300, 700),
    "AcquisitionDateTime": ("20200101101010.5", "20200101101510.5"),
    "AcquisitionTime": ("101010", "101510"),
    "KVP": (80, 140),
    "SliceThickness": (1.25, 5),
    "ConvolutionKernel": ("B30f", "B70f"),
    "ImageType": (["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"], ["DERIVED", "SECONDARY", "AXIAL", "MONO"]),
}


@pytest.mark.parametrize("offset", [1.25, 0, 5], ids=["interleaved", "at the same positions", "overlapping"])
@pytest.mark.parametrize(("keyword", "contents"), TELLING.items(), ids=TELLING)
def test_elements_tell_two_scans_of_one_series_apart(
    keyword: str, contents: tuple[Any, Any], offset: float, tmp_path: Path
) -> None:
    uid, scans = generate_uid(), []
    for number, content in enumerate(contents):
        hu = chest(6, 16, seed=number)
        files = write_series(tmp_path, hu, SPACING, first=str(number), SeriesInstanceUID=uid, **{keyword: content})
        for z, path in enumerate(files):
            edit(path, lambda image, z=z, n=number: set_position(image, 2.5 * z + n * offset))  # type: ignore[misc]
        scans.append(files)
    discovery = find(tmp_path)
    assert len(discovery.series) == 2
    for series in discovery.series:
        check_scan(series, next(files for files in scans if series.files[0] in files))
    assert not discovery.exclusions


def test_a_lost_slice_of_one_acquisition_leaves_the_second_one_whole(tmp_path: Path) -> None:
    uid = generate_uid()
    first = write(tmp_path, 6, SeriesInstanceUID=uid, AcquisitionNumber=1)
    second = write(tmp_path, 6, lambda image, z: set_position(image, 2.5 * z + 1.25), first="2",
                   SeriesInstanceUID=uid, AcquisitionNumber=2)  # fmt: skip
    second[2].unlink()
    by_slice_count = {len(series.files): series for series in find(tmp_path).series}
    check_scan(by_slice_count[6], first)
    assert "a slice is missing" in reason(by_slice_count[5])


DISORDER: dict[str, tuple[Edit, str]] = {
    "acquisitions at random": (
        lambda image, z: setattr(image, "AcquisitionNumber", [1, 1, 2, 1, 2, 2, 1, 2, 1, 1][z]),
        "AcquisitionNumber has 2 values, and the slices of one lie among those of the other",
    ),
    "an acquisition is unknown": (
        lambda image, z: setattr(image, "AcquisitionNumber", None if z == 4 else z % 2 + 1),
        "AcquisitionNumber has 2 values and is empty in 1",
    ),
    "a kernel is unknown": (
        lambda image, z: setattr(image, "ConvolutionKernel", ["B30f", "B70f", ""][min(2, z // 4)]),
        "ConvolutionKernel is empty in 2 images",
    ),
    "a patient is unknown": (
        lambda image, z: setattr(image, "PatientID", ["A", "B", ""][min(2, z // 4)]),
        "PatientID is empty in 2 images",
    ),
    "orientation beyond the tolerance": (
        lambda image, z: rotated(image, 0.01 * (z % 2)),
        "its series is 2 stacks that complement each other and differ in orientation",
    ),
    "orientation in halves": (
        lambda image, z: rotated(image, 0.001 * (z // 5)),
        "its series is 2 stacks that complement each other and differ in orientation",
    ),
    "orientation in thirds": (
        lambda image, z: rotated(image, 0.001 * (z % 3)),
        "its series is 3 stacks that complement each other and differ in orientation",
    ),
    "spacing": (
        lambda image, z: setattr(image, "PixelSpacing", [0.7 + 0.01 * (z % 2)] * 2),
        "its series is 2 stacks that complement each other and differ in pixel spacing",
    ),
    "patients alternate": (
        lambda image, z: setattr(image, "PatientID", "AB"[z % 2]),
        "its series is 2 stacks that complement each other and differ in PatientID",
    ),
    "an opposite normal": (
        lambda image, z: setattr(image, "ImageOrientationPatient", [1, 0, 0, 0, (-1) ** z, 0]),
        "its series is 2 stacks that complement each other and differ in orientation",
    ),
    "an opposite normal in halves": (
        lambda image, z: setattr(image, "ImageOrientationPatient", [1, 0, 0, 0, 1 if z < 5 else -1, 0]),
        "its series is 2 stacks that complement each other and differ in orientation",
    ),
    "another kernel in halves": (
        lambda image, z: setattr(image, "ConvolutionKernel", "B30f" if z < 5 else "B31f"),
        "its slices are one stack in which ConvolutionKernel changes from B30f to B31f",
    ),
    "another kernel at the end": (
        lambda image, z: setattr(image, "ConvolutionKernel", "B30f" if z < 9 else "B31f"),
        "its slices are one stack in which ConvolutionKernel changes from B30f to B31f",
    ),
    "another series at the end": (
        lambda image, z: setattr(image, "SeriesInstanceUID", image.SeriesInstanceUID + ("" if z < 9 else ".1")),
        "which is no scan of its own, continues it in another series",
    ),
    "no series at the end": (
        lambda image, z: setattr(image, "SeriesInstanceUID", image.SeriesInstanceUID if z < 9 else ""),
        "which is no scan of its own, continues it in another series",
    ),
    "InstanceNumber runs twice": (
        lambda image, z: setattr(image, "InstanceNumber", z % 2 * 5 + z // 2),
        "InstanceNumber runs through the slices 2 times",
    ),
    "InstanceNumber runs up and down": (
        lambda image, z: setattr(image, "InstanceNumber", z // 2 if z % 2 else 20 - z // 2),
        "InstanceNumber runs through the slices 2 times",
    ),
    "InstanceNumber counts twice": (
        lambda image, z: setattr(image, "InstanceNumber", z // 2),
        "InstanceNumber runs through the slices 2 times",
    ),
    "AcquisitionTime runs twice": (
        lambda image, z: setattr(image, "AcquisitionTime", f"1010{10 + z % 2 * 20 + z // 2}.5"),
        "AcquisitionTime runs through the slices 2 times",
    ),
    "AcquisitionDateTime runs twice": (
        lambda image, z: setattr(image, "AcquisitionDateTime", f"202001011010{10 + z % 2 * 20 + z // 2}.5+0100"),
        "AcquisitionDateTime runs through the slices 2 times",
    ),
    "ContentTime runs twice": (
        lambda image, z: setattr(image, "ContentTime", f"1010{10 + z % 2 * 20 + z // 2}.5"),
        "ContentTime runs through the slices 2 times",
    ),
    "a slowly turning plane": (
        lambda image, z: rotated(image, 9e-5 * z),
        "holds 10 orientations, wanted one series of alike slices",
    ),
}


@pytest.mark.parametrize(("edit_slice", "text"), DISORDER.values(), ids=DISORDER)
def test_stacks_that_nothing_tells_apart_are_refused(edit_slice: Edit, text: str, tmp_path: Path) -> None:
    write(tmp_path, 10, edit_slice)
    discovery = find(tmp_path)
    assert discovery.series
    assert all(text in reason(series) for series in discovery.series)
    assert any(len(series.files) > 3 for series in discovery.series)


@pytest.mark.parametrize(("lost", "has_third"), [(None, True), (3, False), (3, True)])
def test_stacks_that_alternate_are_refused_also_without_a_slice_or_beside_a_third(
    lost: int | None, has_third: bool, tmp_path: Path
) -> None:
    uid = generate_uid()
    files = write(tmp_path, 12, lambda image, z: rotated(image, 0.01 * (z % 2)), SeriesInstanceUID=uid)
    if lost is not None:
        files[lost].unlink()
    third = write(tmp_path, 12, first="2", PixelSpacing=[0.9, 0.9], SeriesInstanceUID=uid) if has_third else []
    series = find(tmp_path).series
    alternating = [reason(part) for part in series if not {*part.files} & {*third}]
    assert alternating == ["its series is 2 stacks that complement each other and differ in orientation"] * 2
    if has_third:
        check_scan(next(part for part in series if {*part.files} & {*third}), third)


@pytest.mark.parametrize(("slices", "is_refused"), [(1, True), (2, True), (3, False)])
def test_a_few_slices_of_another_series_refuse_the_scan_that_they_continue(
    slices: int, is_refused: bool, tmp_path: Path
) -> None:
    def end_in_another(image: FileDataset, z: int) -> None:
        image.SeriesInstanceUID += ".1" * (z >= 10 - slices)

    write(tmp_path, 10, end_in_another)
    (scan,) = (series for series in find(tmp_path).series if len(series.files) == 10 - slices)
    assert (scan.fault is not None) == is_refused


@pytest.mark.parametrize(("scrap", "is_refused"), [("1.1", True), ("1.2", False)])
def test_a_slice_of_another_study_continues_no_scan(scrap: str, is_refused: bool, tmp_path: Path) -> None:
    """The patient was examined again, and lay where the patient lay before."""

    def end_in_another(image: FileDataset, z: int) -> None:
        image.SeriesInstanceUID += ".1" * (z == 9)
        image.StudyInstanceUID = scrap if z == 9 else "1.1"

    files = write(tmp_path, 10, end_in_another)
    (scan,) = find(tmp_path).series
    assert sorted(scan.files) == sorted(files[:9])
    assert (scan.fault is not None) == is_refused


def test_three_interleaved_phases_that_numbers_alone_tell_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 15, lambda image, z: setattr(image, "InstanceNumber", z % 3 * 5 + z // 3))
    (series,) = find(tmp_path).series
    assert reason(series) == "InstanceNumber runs through the slices 3 times, as if they were 3 scans"


def test_frames_that_run_twice_through_the_slices_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_enhanced(path, chest(8, 16), SPACING)

    def order_frames(image: FileDataset) -> None:
        groups = sorted(
            image.PerFrameFunctionalGroupsSequence, key=lambda g: g.PlanePositionSequence[0].ImagePositionPatient[2]
        )
        image.PerFrameFunctionalGroupsSequence = groups[::2] + groups[1::2]

    edit(path, order_frames)
    (series,) = find(tmp_path).series
    assert reason(series) == "its frames run through the slices 2 times, as if they were 2 scans"


@pytest.mark.parametrize(("shift", "step"), [(10, 2.5), (1.25, 0)])
def test_files_of_several_frames_follow_each_other_in_one_scan(shift: float, step: float, tmp_path: Path) -> None:
    uid = generate_uid()

    def move(image: FileDataset) -> None:
        image.SeriesInstanceUID = uid
        for group in image.PerFrameFunctionalGroupsSequence if str(image.filename).endswith("2.dcm") else ():
            (position,) = group.PlanePositionSequence
            position.ImagePositionPatient = [-180, -180, position.ImagePositionPatient[2] + shift]

    for name in ("1.dcm", "2.dcm"):
        write_enhanced(tmp_path / name, chest(4, 16), SPACING)
        edit(tmp_path / name, move)
    (series,) = find(tmp_path).series
    if step:
        scan = open_series(series.files).scan()
        assert (scan.slices, scan.spacing[0]) == (8, step)
    else:
        assert reason(series) == "the frames of its 2 files lie among each other, as if they were several scans"


def test_a_kernel_that_the_first_slice_lacks_is_still_the_scans(tmp_path: Path) -> None:
    files = write(tmp_path, 5, ConvolutionKernel="B30f", SliceThickness=2.5, KVP=120)
    change(files[0], ConvolutionKernel="", SliceThickness=None, KVP=None)
    (series,) = find(tmp_path, kernel="B30f", thickness_mm=2.5).series
    check_scan(series, files)
    acquisition = open_series(series.files).acquisition
    assert (acquisition.kernel, acquisition.thickness, acquisition.kvp) == ("B30f", 2.5, 120)


def test_two_fields_of_view_of_one_series_stay_two_scans(tmp_path: Path) -> None:
    uid = generate_uid()
    wide = write(tmp_path, 6, SeriesInstanceUID=uid)
    narrow = write(tmp_path, 6, first="2", SeriesInstanceUID=uid, PixelSpacing=[0.4, 0.4])
    first, second = sorted(find(tmp_path).series, key=lambda series: sorted(series.files))
    check_scan(first, wide)
    check_scan(second, narrow)


@pytest.mark.parametrize("interleaved", [True, False])
def test_two_phases_in_one_enhanced_file_are_refused(interleaved: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    write_enhanced(path, chest(8, 16), SPACING)

    def number_frames(image: FileDataset) -> None:
        for group in image.PerFrameFunctionalGroupsSequence:
            z = round(float(group.PlanePositionSequence[0].ImagePositionPatient[2]) / 2.5)
            phase = z % 2 if interleaved else z // 4
            content = type(group)()
            content.TemporalPositionIndex = phase + 1
            group.FrameContentSequence = [content]

    edit(path, number_frames)
    (series,) = find(tmp_path).series
    if interleaved:
        assert reason(series) == "holds 2 stacks that differ in TemporalPositionIdentifier, wanted one"
    else:
        assert open_series(series.files).scan().slices == 8
