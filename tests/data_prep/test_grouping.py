"""Which images are one scan: right values come from SimpleITK, and from positions that pydicom reads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid

from data_prep.errors import ScanError, UserError
from data_prep.pseudonym import file_pseudonym, pseudonym
from data_prep.readers.dicom import open_series
from data_prep.settings import SourceSettings
from data_prep.sources.discovery import discover
from data_prep.sources.series import Discovery, Series
from tests.data_prep.dicom_series import change, edit, slice_image, transcode, write_enhanced, write_series
from tests.scans import chest, write_nifti

SPACING = (2.5, 0.7, 0.7)
Edit = Callable[[FileDataset, int], None]


def find(*roots: Path, kind: str = "dicom", **fields: Any) -> Discovery:
    return discover([SourceSettings.model_validate({"kind": kind, "path": root, **fields}) for root in roots])


def write(folder: Path, slices: int = 10, edit_slice: Edit | None = None, **tags: Any) -> list[Path]:
    """Write a series of small images; ``edit_slice(image, z)`` changes each before the end."""
    files = write_series(folder, chest(slices, 16), SPACING, **tags)
    for z, path in enumerate(files):
        if edit_slice:
            edit(path, lambda image, z=z: edit_slice(image, z))  # type: ignore[misc]
    return files


def by_position(files: Sequence[Path]) -> list[Path]:
    return sorted(files, key=lambda path: float(dcmread(path).ImagePositionPatient[2]))


def itk_voxels(files: Sequence[Path]) -> NDArray[Any]:
    image = SimpleITK.ReadImage([str(path) for path in by_position(files)])
    voxels: NDArray[Any] = np.maximum(SimpleITK.GetArrayFromImage(image), -1024)
    return voxels


def check_scan(series: Series, files: Sequence[Path], step: float = 2.5) -> None:
    """Check that a series is these files, and reads as SimpleITK reads them."""
    assert series.fault is None
    assert sorted(series.files) == sorted(files)
    scan = open_series(series.files).scan()
    np.testing.assert_array_equal(scan.planes(0, scan.slices), itk_voxels(files))
    assert scan.spacing[0] == pytest.approx(step, abs=1e-3)


def reason(series: Series) -> str:
    """Why a series is no scan, as its source or its reader says."""
    if series.fault:
        return str(series.fault)
    with pytest.raises(ScanError) as error:
        open_series(series.files)
    return str(error.value)


def rotated(image: FileDataset, sine: float) -> None:
    cosine = float(np.sqrt(1 - sine * sine))
    image.ImageOrientationPatient = [f"{c:.8f}" for c in (cosine, sine, 0, -sine, cosine, 0)]


def set_position(image: FileDataset, height: float) -> None:
    image.ImagePositionPatient = [-180, -180, round(height, 4)]


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
    found = find(tmp_path)
    (series,) = found.series
    check_scan(series, files)
    assert not found.exclusions


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
    found = find(tmp_path)
    assert len(found.series) == 2
    for series in found.series:
        check_scan(series, next(files for files in scans if series.files[0] in files))
    assert not found.exclusions


def test_a_lost_slice_of_one_acquisition_leaves_the_second_one_whole(tmp_path: Path) -> None:
    uid = generate_uid()
    first = write(tmp_path, 6, SeriesInstanceUID=uid, AcquisitionNumber=1)
    second = write(tmp_path, 6, lambda image, z: set_position(image, 2.5 * z + 1.25), first="2",
                   SeriesInstanceUID=uid, AcquisitionNumber=2)  # fmt: skip
    second[2].unlink()
    found = {len(series.files): series for series in find(tmp_path).series}
    check_scan(found[6], first)
    assert "a slice is missing" in reason(found[5])


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
    found = find(tmp_path)
    assert found.series
    assert all(text in reason(series) for series in found.series)
    assert any(len(series.files) > 3 for series in found.series)


def test_three_interleaved_phases_that_numbers_alone_tell_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 15, lambda image, z: setattr(image, "InstanceNumber", z % 3 * 5 + z // 3))
    (series,) = find(tmp_path).series
    assert reason(series) == "InstanceNumber runs through the slices 3 times, as if they were 3 scans"


def test_copies_with_numbers_of_their_own_are_still_copies(tmp_path: Path) -> None:
    files = write(tmp_path, 5, lambda image, z: setattr(image, "InstanceNumber", z))
    for n, path in enumerate(files):
        copy = path.with_name(f"copy-{path.name}")
        copy.write_bytes(path.read_bytes())
        change(copy, SOPInstanceUID=generate_uid(), InstanceNumber=10 + n)
    found = find(tmp_path)
    check_scan(found.series[0], files)
    assert [exclusion.images for exclusion in found.exclusions] == [5]


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


def test_a_kernel_that_the_first_slice_lacks_is_still_the_scans(tmp_path: Path) -> None:
    files = write(tmp_path, 5, ConvolutionKernel="B30f", SliceThickness=2.5, KVP=120)
    change(files[0], ConvolutionKernel="", SliceThickness=None, KVP=None)
    (series,) = find(tmp_path, kernel="B30f", thickness_mm=2.5).series
    check_scan(series, files)
    acquisition = open_series(series.files).acquisition
    assert (acquisition.kernel, acquisition.thickness, acquisition.kvp) == ("B30f", 2.5, 120)


def test_an_unreadable_file_of_another_series_condemns_none(tmp_path: Path) -> None:
    files = write(tmp_path, 5, first="1")
    (broken,) = write(tmp_path, 1, first="2")
    broken.write_bytes(broken.read_bytes().replace(b"-1024", b"-1o24"))
    found = find(tmp_path)
    check_scan(found.series[0], files)
    assert [exclusion.files for exclusion in found.exclusions] == [(broken,)]


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
    found = find(*roots)
    assert len({series.scan for series in found.series}) == 4
    assert [series.subject for series in found.series[:2]] == [found.series[0].subject] * 2
    assert len({series.subject for series in found.series}) == 2  # a patient a source
    assert capsys.readouterr().out.count("2 scans have neither PatientID nor StudyInstanceUID") == 2
    for series in found.series:
        check_scan(series, list(series.files[0].parent.glob("*.dcm")))


def test_the_same_names_in_two_sources_are_two_scans_but_the_same_files_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_nifti(tmp_path / name / "scan.nii", chest(3))
    found = find(tmp_path / "one", tmp_path / "two", kind="nifti")
    assert len({series.scan for series in found.series}) == 2
    assert len({series.subject for series in found.series}) == 2
    with pytest.raises(UserError, match="two series have the id"):
        find(tmp_path / "one", tmp_path / "one", kind="nifti")
    uid = generate_uid()
    for name in ("a", "b"):
        write(tmp_path / name, 4, SeriesInstanceUID=uid)
    with pytest.raises(UserError, match="two series have the id"):
        find(tmp_path / "a", tmp_path / "b")


def test_identical_copies_count_once_and_are_said(tmp_path: Path) -> None:
    files = write(tmp_path / "scan", 5)
    copies = [tmp_path / "copy" / path.name for path in files[1:4]]
    copies[0].parent.mkdir()
    for path, copy in zip(files[1:4], copies, strict=True):
        copy.write_bytes(path.read_bytes())
    change(copies[0], SOPInstanceUID=generate_uid())  # the same pixels under another id
    transcode(copies[1], 4)  # and by another syntax
    found = find(tmp_path)
    (series,), (exclusion,) = found.series, found.exclusions
    originals = [*files[:1], *(path for path in (*files[1:4], *copies) if path in series.files), *files[4:]]
    check_scan(series, originals)
    assert exclusion.reason == f"identical copies of images of {series.scan}"
    assert exclusion.images == 3
    assert sorted([*exclusion.files, *series.files]) == sorted([*files, *copies])


@pytest.mark.parametrize("has_same_uid", [True, False])
def test_different_images_at_one_position_are_both_named(has_same_uid: bool, tmp_path: Path) -> None:
    files = write(tmp_path, 5)
    intruder = tmp_path / "edited.dcm"
    intruder.write_bytes(files[2].read_bytes())

    def paint(image: FileDataset) -> None:
        image.PixelData = b"\x10\x04" * (len(image.PixelData) // 2)
        image.SOPInstanceUID = image.SOPInstanceUID if has_same_uid else generate_uid()

    edit(intruder, paint)
    (series,) = find(tmp_path).series
    names = {file_pseudonym(path.name) for path in (files[2], intruder)}
    words = reason(series).split()
    assert {words[0], words[2]} == names
    assert reason(series).endswith("are different images at one position, 5.00 mm")


def test_an_unreadable_file_condemns_only_what_it_may_belong_to(tmp_path: Path) -> None:
    first = write(tmp_path, 4, first="1")
    second = write(tmp_path, 4, first="2")
    elsewhere = write(tmp_path / "sub", 4)
    first[-1].write_bytes(first[-1].read_bytes().replace(b"-1024", b"-1o24"))  # its header tells its series
    found = find(tmp_path)
    fault = {series.files[0]: series.fault for series in found.series}
    assert fault[by_position(first[:-1])[0]] is not None
    assert file_pseudonym(first[-1].name) in str(fault[by_position(first[:-1])[0]])
    check_scan(next(series for series in found.series if series.files[0] in second), second)
    check_scan(next(series for series in found.series if series.files[0] in elsewhere), elsewhere)
    first[-1].write_bytes(bytes(128) + b"DICM" + b"broken" * 9)  # its header tells nothing
    faults = [series.fault is not None for series in find(tmp_path).series if series.location == tmp_path]
    assert faults == [True, True]
    check_scan(next(series for series in find(tmp_path).series if series.files[0] in elsewhere), elsewhere)


class Tree:
    """Random images below a folder, with what must come of them: files by the scan that they are."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, np.random.default_rng(seed)
        self.scans: list[list[Path]] = []
        self.copies: list[Path] = []

    def add_series(self, layout: str, jitter: float) -> None:
        """Add a series of one or two scans whose headers and positions are noisy below the tolerance."""
        uid, slices, number = generate_uid(), int(self.random.integers(6, 9)), len(self.scans)
        base, patient = self.random.uniform(-0.008, 0.008), self.random.choice(["", f"P{number}"])
        kernels = self.random.choice(["", "B30f"], slices)
        offsets = {"one": [0.0], "interleaved": [0.0, 1.25], "same": [0.0, 0.0], "overlapping": [0.0, 5.0]}[layout]
        for acquisition, offset in enumerate(offsets, start=1):
            files = []
            for z in range(slices):
                plane = self.random.integers(-1000, 1000, (8, 8)).astype(np.int16)
                image = slice_image(plane, SPACING, z, uid, patient)
                rotated(image, base + jitter * self.random.uniform(-4e-5, 4e-5))
                image.PixelSpacing = [f"{0.7 + jitter * self.random.uniform(-4e-4, 4e-4):.7f}"] * 2
                image.StudyInstanceUID, image.AcquisitionNumber = f"1.2.{number}", acquisition
                image.ConvolutionKernel = str(kernels[z])
                set_position(image, z * 2.5 + offset)
                files.append(self._save(image))
            self.scans.append(files)

    def add_copy(self) -> None:
        path = self.random.choice(np.array(self.scans[0], dtype=object))
        copy = path.with_name(f"{self._name()}.dcm")
        copy.write_bytes(path.read_bytes())
        self.copies.append(copy)

    def add_report(self) -> None:
        image = slice_image(np.zeros((8, 8), np.int16), SPACING, 0, generate_uid(), "Doe")
        image.Modality = "SR"
        self._save(image)

    def _save(self, image: FileDataset) -> Path:
        path = self.root / f"folder{self.random.integers(3)}" / f"{self._name()}.dcm"
        path.parent.mkdir(exist_ok=True)
        image.save_as(path, enforce_file_format=True)
        return path

    def _name(self) -> str:
        return f"{self.random.integers(10**12):012d}"


LAYOUTS = st.lists(st.sampled_from(["one", "interleaved", "same", "overlapping"]), min_size=1, max_size=3)


@settings(max_examples=12)
@given(layouts=LAYOUTS, jitter=st.sampled_from([0.0, 0.01, 1.0]), extras=st.integers(0, 2), seed=st.integers(0, 2**20))
def test_each_scan_equals_itks_and_every_other_image_has_a_reason(
    layouts: list[str], jitter: float, extras: int, seed: int
) -> None:
    with TemporaryDirectory() as folder:
        tree = Tree(Path(folder), seed)
        for layout in layouts:
            tree.add_series(layout, jitter)
        for _ in range(extras):
            tree.add_copy()
            tree.add_report()
        found = find(tree.root)
        assert len(found.series) == len(tree.scans)
        for series in found.series:
            (files,) = [scan for scan in tree.scans if {*scan} & {*series.files} or _is_copy_of(series, scan, tree)]
            assert len(series.files) == len(files)
            assert {*series.files} <= {*files, *tree.copies}
            check_scan(series, series.files)
            np.testing.assert_array_equal(itk_voxels(series.files), itk_voxels(files))
        listed = [path for series in found.series for path in series.files]
        listed += [path for exclusion in found.exclusions for path in exclusion.files]
        assert sorted(listed) == sorted(tree.root.rglob("*.dcm"))
        assert all(exclusion.reason for exclusion in found.exclusions)


def _is_copy_of(series: Series, scan: Sequence[Path], tree: Tree) -> bool:
    return scan is tree.scans[0] and bool({*series.files} & {*tree.copies})
