"""Values that no scanner gives are refused, with the element and what it holds; the others equal SimpleITK's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom import Dataset
from pydicom.dataset import FileDataset

from data_prep.errors import ScanError
from data_prep.plausibility import HuCheck, check_extent
from data_prep.readers.dicom import open_dicom
from tests.data_prep.dicom_series import edit, write_series
from tests.scans import chest

SPACING = (2.5, 0.7, 0.7)
LARGE = {"length": ((3.0, 0.7, 0.7), (1001, 512, 512), "the scan's length is 3003 mm"),
         "rows": ((3.0, 2.0, 0.7), (1000, 501, 512), "the width of a slice is 1002 mm"),
         "columns": ((3.0, 0.7, 2.0), (1000, 512, 501), "the width of a slice is 1002 mm")}  # fmt: skip
Edit = Callable[[FileDataset], None]


def check_hu(*ranges: tuple[int, int]) -> None:
    """Check slices of these lowest and highest HU, from the feet to the head."""
    check = HuCheck(lambda z: f"slice {z}")
    for z, (lowest, highest) in enumerate(ranges):
        check.add(z, np.array([[lowest, highest]]))
    check.finish()


@pytest.mark.parametrize("ranges", [
    [(-1000, -100), (-1000, -90), (-1000, 40), (-1000, 40)],  # the table alone, below the feet
    [(-1000, 40), (-1000, 40), (-1000, -100)],  # and above the head
    [(-1000, 40), (-51, 40), (-1000, 40)],  # fat, where the field ends inside of the body
    [(-201, 0), (-201, 0)],
])  # fmt: skip
def test_slices_without_tissue_at_the_ends_and_without_air_are_those_of_a_ct(ranges: list[tuple[int, int]]) -> None:
    check_hu(*ranges)


@pytest.mark.parametrize(("ranges", "reason"), [
    ([(-1000, -100), (-1000, 40), (-1000, -1), (-1000, 40)], "slice 2 has values from -1000 to -1, which are no HU"),
    ([(-1000, 40), (-49, 40), (-1000, 40)], "slice 1 has values from -49 to 40, which are no HU: neither air nor fat"),
    ([(-199, 40), (-199, 40)], "values from -199 to 40 are no HU: air or tissue is missing"),
    ([(-1000, -1), (-1000, -2)], "values from -1000 to -1 are no HU: air or tissue is missing"),
])  # fmt: skip
def test_slices_that_lack_what_a_ct_has_are_refused(ranges: list[tuple[int, int]], reason: str) -> None:
    with pytest.raises(ScanError, match=f"^{reason}"):
        check_hu(*ranges)


def setting(**elements: object) -> Edit:
    def change(image: FileDataset) -> None:
        for name, value in elements.items():
            setattr(image, name, value)
            if name.startswith("PixelPadding"):
                image[name].VR = "US"

    return change


def table(image: FileDataset) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType, lut.LUTData = [16, 0, 16], "HU", b"\0" * 32
    image.ModalityLUTSequence = [lut]


def words(image: FileDataset) -> np.ndarray:
    return np.frombuffer(image.PixelData, "<u2").astype(np.int32)


def signed_as_unsigned(image: FileDataset) -> None:
    image.PixelData, image.RescaleIntercept = (words(image) - 1024).astype("<i2").tobytes(), 0


def in_eight_bits(image: FileDataset) -> None:
    image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
    image.RescaleSlope, image.PixelData = 8, (words(image) // 8).astype("u1").tobytes()


def negative_slope(image: FileDataset) -> None:
    image.RescaleSlope, image.RescaleIntercept = -1, 3000
    image.PixelData = (4024 - words(image)).astype("<u2").tobytes()


def positive_intercept(image: FileDataset) -> None:
    image.PixelData, image.PixelRepresentation = (words(image) - 1124).astype("<i2").tobytes(), 1
    image.RescaleIntercept = 100


def beyond_by_its_intercept(image: FileDataset) -> None:
    positive_intercept(image)
    image.PixelData = b"\xff\x7f" + image.PixelData[2:]


def metal(image: FileDataset) -> None:
    image.PixelData = b"\xff\xff" + image.PixelData[2:]


REFUSED: dict[str, tuple[Edit, str]] = {
    "slope 0": (setting(RescaleSlope=0), "RescaleSlope is 0"),
    "two slopes": (setting(RescaleSlope=[1, 2]), "RescaleSlope holds 2 numbers"),
    "slope empty in one slice": (setting(RescaleSlope=""), "lacks RescaleSlope"),
    "slope of ten": (setting(RescaleSlope=10), r"more than|above 3071"),
    "slope of a tenth": (setting(RescaleSlope=0.1), "tissue is missing"),
    "intercept 0": (setting(RescaleIntercept=0), "neither air nor fat"),
    "iodine": (setting(RescaleType="MGML"), "RescaleType is MGML, wanted HU"),
    "a table": (table, "ModalityLUTSequence"),
    "colour": (setting(PhotometricInterpretation="RGB", SamplesPerPixel=3), "PhotometricInterpretation is RGB"),
    "high bit": (setting(BitsStored=12, HighBit=15), "HighBit is 15, wanted 11"),
    "more bits than allocated": (setting(BitsStored=17, HighBit=16), "BitsStored is 17"),
    "twelve allocated": (setting(BitsAllocated=12, BitsStored=12, HighBit=11), "BitsAllocated is 12"),
    "signed as unsigned": (signed_as_unsigned, "no HU"),
    "a value that int16 cannot hold": (metal, "holds 64511, which is no HU: a scanner gives at most 32767"),
    "a value that int16 cannot hold, by its intercept": (beyond_by_its_intercept, "holds 32867, which is no HU"),
    "one value": (lambda image: setattr(image, "PixelData", b"\0" * 8192), "the value -1024 alone"),
    "metres": (setting(PixelSpacing=[0.0007, 0.0007]), "PixelSpacing is 0.0007 mm"),
    "microns": (setting(PixelSpacing=[700, 700]), "PixelSpacing is 700 mm"),
    "negative": (setting(PixelSpacing=[-0.7, -0.7]), "PixelSpacing is -0.7 mm"),
    "thickness": (setting(SliceThickness=700), "SliceThickness is 700 mm"),
    "aspect": (setting(PixelAspectRatio=[1, 2]), "PixelAspectRatio"),
    "long cosines": (setting(ImageOrientationPatient=[2, 0, 0, 0, 2, 0]), "ImageOrientationPatient is 2"),
    "oblique cosines": (
        setting(ImageOrientationPatient=[1, 0, 0, 0.0199913586983, 0.99980019984014, 0]),
        r"ImageOrientationPatient is 1\\0\\0\\0.01999\\0.9998\\0, wanted two vectors of length 1 at right angles",
    ),
    "frames": (setting(NumberOfFrames=2), "several frames"),
    "rows": (setting(Rows=128), "PixelData holds 8192 bytes, wanted 1 x 128 x 64 x 2"),
    "padding range": (setting(PixelPaddingValue=0, PixelPaddingRangeLimit=3000), "PixelPaddingRangeLimit"),
    "padding in the body": (setting(PixelPaddingValue=1064), "PixelPaddingValue stands for 40 HU"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_slice_that_no_scanner_gives_is_refused_and_named(case: str, tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(4), SPACING)
    change, reason = REFUSED[case]
    edit(files[1], change)
    with pytest.raises(ScanError, match=reason) as error:
        open_dicom(files).load()
    assert f"file {sorted(files).index(files[1]) + 1} of 4" in str(error.value)


KEPT: dict[str, Edit] = {
    "8 bits": in_eight_bits,
    "negative slope": negative_slope,
    "half of an intercept": setting(RescaleIntercept=-1024.5),
    "positive intercept": positive_intercept,
    "padding range below air": setting(PixelPaddingValue=0, PixelPaddingRangeLimit=20),
    "padding with the other sign": setting(PixelPaddingValue=63536),
    "excess bytes": lambda image: setattr(image, "PixelData", image.PixelData + b"\0\0"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_the_standard_converts_equals_simpleitk(case: str, tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(4), SPACING)
    for path in files:
        edit(path, KEPT[case])
    expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage([str(path) for path in files]))
    np.testing.assert_array_equal(open_dicom(files).planes(0, 4), expected)


def signed_every_second(image: FileDataset, z: int) -> None:
    if z % 2:
        signed_as_unsigned(image)
        image.PixelRepresentation = 1


def tilted_by_name(image: FileDataset, _z: int) -> None:
    image.GantryDetectorTilt = 15  # "not intended for mathematical computations" (PS3.3 C.8.2.1)


@pytest.mark.parametrize("change", [signed_every_second, tilted_by_name])
def test_each_slice_is_read_by_its_header(change: Callable[[FileDataset, int], None], tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(4), SPACING)
    for z, path in enumerate(files):
        edit(path, lambda image, z=z: change(image, z))  # type: ignore[misc]
    scan = open_dicom(files)
    np.testing.assert_array_equal(scan.planes(0, 4), chest(4))
    singles = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0] for path in files]
    np.testing.assert_array_equal(scan.planes(0, 4), singles)
    assert scan.spacing == pytest.approx(SPACING)


def test_slices_that_are_shifted_by_the_tilt_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(4), SPACING, GantryDetectorTilt=15)
    for z, path in enumerate(files):
        edit(path, setting(ImagePositionPatient=[-180, -180 + 0.67 * z, 2.5 * z]))
    with pytest.raises(ScanError, match=r"shifted sideways by up to 2\.0 mm: a tilted gantry"):
        open_dicom(files)


def test_hu_do_not_depend_on_how_they_are_displayed(tmp_path: Path) -> None:
    files = write_series(tmp_path, chest(4), SPACING)
    for path in files:
        edit(path, setting(PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(open_dicom(files).planes(0, 4), chest(4))


@pytest.mark.parametrize(("spacing", "shape", "message"), LARGE.values(), ids=LARGE)
def test_no_scan_is_longer_than_a_body_or_wider_than_a_gantry(
    spacing: tuple[float, float, float], shape: tuple[int, int, int], message: str
) -> None:
    check_extent((3.0, 2.0, 2.0), (1000, 500, 500))
    with pytest.raises(ScanError, match=f"^{message}, for a CT between 0 and "):
        check_extent(spacing, shape)
