"""What is written is what was read, wherever and however the source lay."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.dataset import FileDataset

from data_prep.errors import ScanError
from data_prep.originals import dicom_original
from data_prep.readers.dicom import open_dicom, open_series
from data_prep.readers.nifti import nifti_image, open_nifti
from data_prep.writers.dicom import DicomWriter, FromGrid, FromSeries
from data_prep.writers.dicom_elements import Derivation
from data_prep.writers.nifti import writing_nifti
from tests.beside import shared_file
from tests.data_prep.dicom_series import change, edit, item, transcode, write_enhanced, write_series
from tests.data_prep.scan_checks import find
from tests.full_disk import small_files
from tests.scans import Hu, chest

SPACING = (2.5, 0.703125, 0.703125)
DERIVATION = Derivation("Denoised by a test", "recipe", "source")


OF_A_PERSON: dict[str, Any] = {
    "PatientName": "Doe^Jane", "PatientID": "4711", "IssuerOfPatientID": "clinic", "PatientBirthDate": "19500102",
    "PatientSex": "F", "PatientAge": "075Y", "PatientSize": 1.7, "PatientWeight": 70.5, "StudyDate": "20250304",
    "StudyTime": "101112", "AccessionNumber": "A1", "ReferringPhysicianName": "Roe^Richard", "StudyID": "S1",
    "StudyDescription": "Thorax", "InstitutionName": "clinic", "ProtocolName": "low dose", "StationName": "CT1",
    "SoftwareVersions": "v1", "AcquisitionDate": "20250304", "AcquisitionTime": "101213",
    "AcquisitionDateTime": "20250304101213", "ContentDate": "20250304", "ContentTime": "101214",
    "ContrastBolusAgent": "iodine", "AcquisitionNumber": 2,
}  # fmt: skip
"""PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.5.1, C.7.6.1, C.7.6.4."""
OF_A_SCAN: dict[str, Any] = {
    "Manufacturer": "maker", "ManufacturerModelName": "model", "BodyPartExamined": "CHEST", "PatientPosition": "HFS",
    "PositionReferenceIndicator": "SN", "ScanOptions": "HELICAL", "KVP": 120, "DataCollectionDiameter": 500,
    "ReconstructionDiameter": 360, "DistanceSourceToDetector": 1085.6, "DistanceSourceToPatient": 595,
    "GantryDetectorTilt": 0, "TableHeight": 150.5, "RotationDirection": "CW", "ExposureTime": 500,
    "XRayTubeCurrent": 200, "Exposure": 100, "FilterType": "WEDGE", "GeneratorPower": 24, "FocalSpots": 1.2,
    "ConvolutionKernel": "B40f", "SliceThickness": 3, "SpacingBetweenSlices": 2.5, "SliceLocation": 17.5,
    "WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR", "BurnedInAnnotation": "NO",
}  # fmt: skip
"""PS3.3 C.7.3.1, C.7.4.1, C.7.6.1, C.8.2.1, C.11.2."""


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def write_back(source: Path, target: Path, derivation: Derivation = DERIVATION) -> Hu:
    """Write a series as it is; returns its HU in canonical order."""
    series = open_series(files(source))
    original, writer = dicom_original(series), DicomWriter(target, FromSeries(series, derivation))
    target.mkdir()
    planes = [np.clip(np.rint(original.read(z)[0]), -32768, 32767).astype(np.int16) for z in range(original.slices)]
    for plane in planes:
        writer.write(plane)
    return np.stack(planes)


def errors_in(path: Path) -> list[str]:
    """What dciodvfy calls an error; a skip where it is missing."""
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy is missing: apt-get install dicom3tools")
    said = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False).stderr.splitlines()
    assert "CTImage" in said
    return [line for line in said if line.startswith("Error")]


def image_of(folder: Path) -> SimpleITK.Image:
    return SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))


def compressed(folder: Path, syntax: str) -> None:
    for path in write_series(folder, chest(3), SPACING):
        transcode(path, getattr(gdcm.TransferSyntax, syntax))


def edited(edit_image: Callable[[FileDataset], None]) -> Callable[[Path], None]:
    def write_edited(folder: Path) -> None:
        for path in write_series(folder, chest(3), SPACING):
            edit(path, edit_image)

    return write_edited


def padded(image: FileDataset) -> None:
    stored = np.full((64, 64), 40, "<i2")
    stored[:8], stored[8:12] = -2000, -1000
    image.PixelData, image.PixelRepresentation, image.RescaleIntercept = stored.tobytes(), 1, 0
    image.add_new(0x00280120, "US", 63536)


def overlaid(image: FileDataset) -> None:
    stored = np.frombuffer(image.PixelData, "<u2") & 0x0FFF
    image.BitsStored, image.HighBit, image.PixelData = 12, 11, (stored | 0x8000).tobytes()


def signed(image: FileDataset) -> None:
    stored = np.frombuffer(image.PixelData, "<u2").astype(np.int32) - 1024
    image.PixelData, image.PixelRepresentation = stored.astype("<i2").tobytes(), 1
    image.BitsStored, image.HighBit, image.RescaleIntercept = 12, 11, 0


def halved(image: FileDataset) -> None:
    stored = np.frombuffer(image.PixelData, "<u2").astype(np.int32)
    image.RescaleSlope, image.RescaleIntercept = 0.5, -1024
    image.PixelData = (2 * stored).astype("<u2").tobytes()


def metal(image: FileDataset) -> None:
    stored = np.frombuffer(image.PixelData, "<u2").copy()
    stored[:5] = 32767 + 1024
    image.PixelData = stored.tobytes()


def turned(folder: Path) -> None:
    for path in write_series(folder, np.ascontiguousarray(chest(3)[:, ::-1].transpose(0, 2, 1)), SPACING):
        change(path, ImageOrientationPatient=[0, -1, 0, 1, 0, 0])


def bare(folder: Path) -> None:
    """Files that begin with their first element, as old archives have them."""
    for path in write_series(folder, chest(3), SPACING):
        path.write_bytes(path.read_bytes()[132:])


def deflated(image: FileDataset) -> None:
    image.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian


CASES: dict[str, Callable[[Path], None]] = {
    "plain": lambda folder: void(write_series(folder, chest(3), SPACING)),
    "small": lambda folder: void(write_series(folder, chest(5, 40)[:, :37], SPACING)),
    "enhanced": lambda folder: write_enhanced(folder / "all.dcm", chest(5), SPACING),
    "padded": edited(padded), "overlaid": edited(overlaid), "signed": edited(signed), "half a HU": edited(halved),
    "metal": edited(metal), "turned": turned, "without preamble": bare, "deflated": edited(deflated),
    **{
        syntax: lambda folder, syntax=syntax: compressed(folder, syntax)  # type: ignore[misc]
        for syntax in ("JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless", "RLELossless")
    },
}  # fmt: skip


def void(_: object) -> None:
    """For what returns something that nobody wants."""


@pytest.mark.parametrize("case", CASES)
def test_a_series_written_back_holds_the_voxels_of_its_source_at_their_places(case: str, tmp_path: Path) -> None:
    CASES[case](tmp_path / "source")
    hu = write_back(tmp_path / "source", tmp_path / "target")
    written = open_series(files(tmp_path / "target"))
    original = dicom_original(written)
    np.testing.assert_array_equal(np.stack([original.read(z)[0] for z in range(original.slices)]), hu)
    np.testing.assert_array_equal(written.affine, open_series(files(tmp_path / "source")).affine)
    expected = np.rint(open_dicom(files(tmp_path / "source")).load().hu)
    np.testing.assert_array_equal(open_dicom(files(tmp_path / "target")).load().hu, expected)
    if case not in ("enhanced", "without preamble"):  # which SimpleITK does not read
        image, source = image_of(tmp_path / "target"), image_of(tmp_path / "source")
        assert image.GetOrigin() == source.GetOrigin()
        assert image.GetSpacing() == source.GetSpacing()
        assert image.GetDirection() == source.GetDirection()
        if case != "overlaid":  # whose upper bits GDCM keeps
            values = np.clip(np.rint(SimpleITK.GetArrayFromImage(source)), -32768, 32767)
            np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), values)


def test_real_dicom_is_written_as_a_new_valid_series(tmp_path: Path) -> None:
    source = next(path.parent for path in sorted(shared_file("ct/LIDC-IDRI-0003").rglob("*.dcm")))
    selection = tmp_path / "source"
    selection.mkdir()
    chosen = sorted(files(source), key=lambda path: float(pydicom.dcmread(path).SliceLocation))[40:46]
    for path in chosen:
        shutil.copy(path, selection)
    write_back(selection, tmp_path / "target")
    write_back(selection, tmp_path / "bare", Derivation("Denoised by a test", "recipe", "source", deidentify=True))
    olds = {str(old.SOPInstanceUID): old for old in map(pydicom.dcmread, files(selection))}
    news = [pydicom.dcmread(path) for path in files(tmp_path / "target")]
    assert len({new.SOPInstanceUID for new in news} | set(olds)) == 12
    for new in news:
        (reference,) = new.SourceImageSequence
        old = olds[reference.ReferencedSOPInstanceUID]
        for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient", "WindowCenter",
                     "WindowWidth", "AccessionNumber", "InstanceNumber", "KVP", "PixelSpacing"):  # fmt: skip
            assert new[name].value == old[name].value
        assert new.SeriesInstanceUID == news[0].SeriesInstanceUID != old.SeriesInstanceUID
        assert list(new.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (new.RescaleSlope, new.RescaleIntercept, new.PixelPaddingValue) == (1, 0, -2000 - 1024)
        assert "Not for diagnosis" in new.DerivationDescription
        assert not any(element.tag.is_private for element in new)
    for path in files(tmp_path / "bare"):
        written = path.read_bytes()
        for old in olds.values():
            for name in ("PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID",
                         "FrameOfReferenceUID", "StudyDate"):  # fmt: skip
                assert str(old[name].value).encode() not in written
        assert pydicom.dcmread(path).PatientIdentityRemoved == "YES"


@pytest.mark.parametrize("deidentify", [False, True])
def test_a_denoised_image_tells_of_its_scan_what_the_source_tells(deidentify: bool, tmp_path: Path) -> None:
    write_series(tmp_path / "source", chest(3), SPACING, **OF_A_PERSON, **OF_A_SCAN)
    write_back(tmp_path / "source", tmp_path / "denoised", Derivation("Denoised", "recipe", "source", deidentify))
    image = pydicom.dcmread(files(tmp_path / "denoised")[0])
    assert {keyword: image.get(keyword) for keyword in OF_A_SCAN} == OF_A_SCAN
    if deidentify:
        hidden = str(image.PatientID)
        assert image.PatientName == hidden
        assert {keyword for keyword in OF_A_PERSON if image.get(keyword)} == {"PatientName", "PatientID"}
        assert hidden.startswith("p-")
    else:
        assert {keyword: image.get(keyword) for keyword in OF_A_PERSON} == OF_A_PERSON


def test_what_the_standard_requires_is_there_even_where_the_source_tells_nothing(tmp_path: Path) -> None:
    """Elements of type 2 of a CT image (PS3.3 A.3), which may be empty."""
    for path in write_series(tmp_path / "source", chest(3), SPACING):
        change(path, PatientName=None, PatientID=None)
    write_back(tmp_path / "source", tmp_path / "denoised")
    required = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
                "AccessionNumber", "ReferringPhysicianName", "StudyID", "SeriesNumber", "Laterality",
                "PositionReferenceIndicator", "Manufacturer", "KVP", "AcquisitionNumber", "SliceThickness",
                "InstanceNumber"]  # fmt: skip
    image = pydicom.dcmread(files(tmp_path / "denoised")[0])
    assert [keyword for keyword in required if keyword not in image] == []


def test_private_sequences_of_frames_are_no_source_of_what_is_written(tmp_path: Path) -> None:
    """Vendors keep there what a classic image said, or another reconstruction."""

    def add_private(image: FileDataset) -> None:
        for group in image.PerFrameFunctionalGroupsSequence:
            block = group.private_block(0x0019, "VENDOR", create=True)
            other = item(PixelSpacing=[3, 3], ImagePositionPatient=[1, 2, 3], KVP=80, PatientID="another")
            block.add_new(0x11, "SQ", [other])

    (tmp_path / "source").mkdir()
    write_enhanced(tmp_path / "source" / "all.dcm", chest(3), SPACING)
    edit(tmp_path / "source" / "all.dcm", add_private)
    write_back(tmp_path / "source", tmp_path / "denoised")
    for z, path in enumerate(files(tmp_path / "denoised")):
        image = pydicom.dcmread(path)
        assert image.PixelSpacing == pytest.approx(SPACING[1:])
        assert image.ImagePositionPatient == pytest.approx([-180, -180, 2.5 * z])
        assert (image.KVP, image.PatientID) == (None, "Doe^Jane")


def test_what_was_denoised_is_no_full_dose_of_a_source(tmp_path: Path) -> None:
    source = write_series(tmp_path / "scans" / "a", chest(4), (2.5, 0.7, 0.7), SeriesDescription="Chest")
    write_back(tmp_path / "scans" / "a", tmp_path / "scans" / "denoised")
    discovery = find(tmp_path / "scans")
    (series,), (exclusion,) = discovery.series, discovery.exclusions
    assert sorted(series.files) == sorted(source)
    assert (exclusion.reason, exclusion.images) == ("denoised by this program, not a scanner's dose", 4)


def test_burnt_in_text_cannot_be_left_out(tmp_path: Path) -> None:
    CASES[next(iter(CASES))](tmp_path / "source")
    for path in files(tmp_path / "source"):
        image = pydicom.dcmread(path)
        image.BurnedInAnnotation = "YES"
        image.save_as(path)
    write_back(tmp_path / "source", tmp_path / "target")
    with pytest.raises(ScanError, match="text is burnt into the images"):
        write_back(tmp_path / "source", tmp_path / "bare", Derivation("d", "r", "s", deidentify=True))


@pytest.mark.slow
@pytest.mark.parametrize("deidentify", [False, True])
@pytest.mark.parametrize("case", ["plain", "enhanced", "padded", "LIDC-IDRI-0003"])
def test_the_validator_finds_no_error(case: str, deidentify: bool, tmp_path: Path) -> None:
    if case in CASES:
        CASES[case](tmp_path / "source")
    else:
        source = next(path.parent for path in sorted(shared_file(f"ct/{case}").rglob("*.dcm")))
        shutil.copytree(source, tmp_path / "source")
    write_back(
        tmp_path / "source", tmp_path / "target", Derivation("Denoised by a test", "recipe", "source", deidentify)
    )
    assert errors_in(files(tmp_path / "target")[0]) == []


def test_dcmtk_reads_what_is_written(tmp_path: Path) -> None:
    if not shutil.which("dcmdump"):
        pytest.skip("dcmdump is missing: apt-get install dcmtk")
    CASES["plain"](tmp_path / "source")
    write_back(tmp_path / "source", tmp_path / "target")
    completed = subprocess.run(
        ["dcmdump", "+P", "RescaleIntercept", files(tmp_path / "target")[0]], capture_output=True, text=True, check=True
    )
    assert "DS [0]" in completed.stdout
    assert completed.stderr == ""


def test_the_same_recipe_gives_the_same_uids_and_another_gives_others(tmp_path: Path) -> None:
    CASES["plain"](tmp_path / "source")
    recipes = {"a": "one", "b": "one", "c": "two"}
    for name, recipe in recipes.items():
        write_back(tmp_path / "source", tmp_path / name, Derivation("Denoised", recipe, "source"))
    a, b, c = ([path.read_bytes() for path in files(tmp_path / name)] for name in recipes)
    assert a == b
    assert (
        pydicom.dcmread(files(tmp_path / "c")[0]).SeriesInstanceUID
        != pydicom.dcmread(files(tmp_path / "a")[0]).SeriesInstanceUID
    )
    assert a != c


def test_nifti_lies_where_the_dicom_lies(tmp_path: Path) -> None:
    turned(tmp_path / "source")
    original = dicom_original(open_series(files(tmp_path / "source")))
    path = tmp_path / "a.nii.gz"
    with writing_nifti(path, (original.slices, *original.plane), original.affine) as writer:
        for z in range(original.slices):
            writer.write(original.read(z)[0].astype(np.int16))
    read, source = SimpleITK.ReadImage(str(path)), SimpleITK.DICOMOrient(image_of(tmp_path / "source"), "LPS")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read), SimpleITK.GetArrayFromImage(source))
    np.testing.assert_allclose(read.GetOrigin(), source.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(read.GetSpacing(), source.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(read.GetDirection(), source.GetDirection(), atol=1e-6)
    assert nib.nifti1.Nifti1Image.from_filename(path).get_data_dtype() == np.int16


def test_nifti_of_slices_that_are_shifted_lies_where_its_source_lies(tmp_path: Path) -> None:
    """A quaternion cannot say it, as slices and their direction are not at right angles."""
    affine = np.diag([-0.7, -0.7, 2.5, 1.0])
    affine[1, 2] = 2.5 * np.tan(np.radians(0.9))
    hu = chest(100)
    with writing_nifti(tmp_path / "shifted.nii.gz", (100, 64, 64), affine) as writer:
        for plane in hu:
            writer.write(plane)
    scan, header = open_nifti(tmp_path / "shifted.nii.gz"), nifti_image(tmp_path / "shifted.nii.gz").header
    assert scan.affine is not None
    np.testing.assert_allclose(scan.affine, affine, atol=1e-5)
    assert (header["sform_code"], header["qform_code"]) == (1, 0)
    np.testing.assert_allclose(header.get_zooms(), [0.7, 0.7, np.hypot(2.5, affine[1, 2])], atol=1e-5)


def test_a_nifti_source_becomes_a_valid_series_of_its_own(tmp_path: Path) -> None:
    turned(tmp_path / "source")
    original = dicom_original(open_series(files(tmp_path / "source")))
    (tmp_path / "target").mkdir()
    writer = DicomWriter(tmp_path / "target", FromGrid("toy", original.affine, DERIVATION))
    for z in range(original.slices):
        writer.write(original.read(z)[0].astype(np.int16))
    read, source = image_of(tmp_path / "target"), SimpleITK.DICOMOrient(image_of(tmp_path / "source"), "LPS")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(read), SimpleITK.GetArrayFromImage(source))
    np.testing.assert_allclose(read.GetOrigin(), source.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(read.GetSpacing(), source.GetSpacing(), atol=1e-6)
    assert errors_in(files(tmp_path / "target")[0]) == []


def test_a_full_disk_is_the_error_of_the_system(tmp_path: Path) -> None:
    """Not pydicom's, whose text is a whole trace."""
    writer = DicomWriter(tmp_path, FromGrid("toy", np.eye(4), DERIVATION))
    with small_files(100_000), pytest.raises(OSError, match="File too large") as caught:
        writer.write(np.zeros((512, 512), np.int16))
    assert caught.value.strerror == os.strerror(errno.EFBIG)
