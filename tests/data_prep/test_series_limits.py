"""A DICOM series at the limits of what is one scan; geometry as SimpleITK has it."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from pydicom.dataset import FileDataset

from data_prep.errors import ScanError
from data_prep.readers.dicom import open_dicom
from data_prep.readers.slice_positions import slice_step
from tests.data_prep.dicom_series import change, edit, write_series
from tests.scans import chest


def test_rows_and_columns_of_unlike_distance_lie_where_simpleitk_puts_them(tmp_path: Path) -> None:
    write_series(tmp_path, chest(4), (2.5, 0.700, 0.705))
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = SimpleITK.ReadImage(files)
    affine = open_dicom(sorted(tmp_path.iterdir())).affine
    assert affine is not None
    last = [63, 20, 3]
    np.testing.assert_allclose(
        (affine @ [*last, 1])[:3] * [-1, -1, 1], image.TransformIndexToPhysicalPoint(last), atol=1e-4
    )


@pytest.mark.parametrize(("mm_a_slice", "is_one"), [(0.22, True), (0.25, False)])
def test_slices_may_be_shifted_by_a_pixel_in_all(mm_a_slice: float, is_one: bool, tmp_path: Path) -> None:
    paths = write_series(tmp_path, chest(4), (20.0, 0.7, 0.7))
    for z, path in enumerate(paths):
        change(path, ImagePositionPatient=[-180.0 + mm_a_slice * z, -180.0, 20.0 * z])
    if is_one:
        assert open_dicom(paths).slices == 4
    else:
        with pytest.raises(ScanError, match=r"shifted sideways by up to 0\.8 mm"):
            open_dicom(paths)


def test_the_charge_of_a_scan_is_the_median_of_its_images(tmp_path: Path) -> None:
    paths = write_series(tmp_path, chest(5), (2.5, 0.7, 0.7))
    for path, charge in zip(paths, (100, 900, 120, 80, None), strict=True):
        change(path, **({} if charge is None else {"Exposure": charge}))
    assert open_dicom(paths).acquisition.mas == 110


def test_an_image_alone_is_no_scan(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"^1 CT image, wanted at least 2 slices$"):
        open_dicom(write_series(tmp_path, chest(1), (2.5, 0.7, 0.7)))


@pytest.mark.parametrize(("bits", "sign"), [(32, 0), (32, 1), (16, 0), (13, 1)])
def test_stored_numbers_of_32_bits_are_read_whole(bits: int, sign: int, tmp_path: Path) -> None:
    def widen(image: FileDataset) -> None:
        stored = np.frombuffer(image.PixelData, "<u2").astype(np.int64) - 1024 * sign
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 32, bits, bits - 1, sign
        image.RescaleIntercept = 1024 * (sign - 1)
        image.PixelData = stored.astype("<i4").tobytes()

    paths = write_series(tmp_path, chest(3), (2.5, 0.7, 0.7))
    for path in paths:
        edit(path, widen)
    np.testing.assert_array_equal(open_dicom(paths).planes(0, 3), np.maximum(chest(3), -1024))


@pytest.mark.parametrize(("images", "is_one"), [(0.5, False), (1.5, True), (2, False)])
def test_pixels_may_be_filled_up_but_are_not_those_of_two_images(images: float, is_one: bool, tmp_path: Path) -> None:
    def fill_up(image: FileDataset) -> None:
        image.PixelData = (image.PixelData * 2)[: int(images * 64 * 64 * 2)]

    paths = write_series(tmp_path, chest(3), (2.5, 0.7, 0.7))
    edit(paths[1], fill_up)
    if is_one:
        np.testing.assert_array_equal(open_dicom(paths).planes(0, 3), np.maximum(chest(3), -1024))
    else:
        with pytest.raises(ScanError, match=r"PixelData holds \d+ bytes, wanted 1 x 64 x 64 x 2"):
            open_dicom(paths)


@pytest.mark.parametrize(("step", "shift", "is_even"), [(0.5, 0.019, True), (0.5, 0.021, False), (5, 0.109, True)])
def test_a_slice_may_lie_a_little_beside_its_place(step: float, shift: float, is_even: bool) -> None:
    heights = [0, step, 2 * step, 3 * step + shift, 4 * step + shift, 5 * step + shift]
    if is_even:
        assert slice_step(heights) == pytest.approx(step)
    else:
        with pytest.raises(ScanError, match=r"slices are 0\.50 to 0\.52 mm apart, wanted one distance"):
            slice_step(heights)


def test_all_values_of_a_padding_range_become_air(tmp_path: Path) -> None:
    """Those above -1024 HU too, where the range begins below."""
    padding = (-2000, -1500, -1024, -1000, -950)

    def pad(image: FileDataset) -> None:
        stored = (np.frombuffer(image.PixelData, "<u2").astype(np.int32) - 1024).astype("<i2").reshape(64, 64)
        stored[0, : len(padding)], stored[0, len(padding)] = padding, -949
        image.PixelData, image.PixelRepresentation, image.RescaleIntercept = stored.tobytes(), 1, 0
        image.add_new("PixelPaddingValue", "SS", padding[0])
        image.add_new("PixelPaddingRangeLimit", "SS", padding[-1])

    paths = write_series(tmp_path, chest(3), (2.5, 0.7, 0.7))
    for path in paths:
        edit(path, pad)
    hu = open_dicom(paths).planes(0, 3)
    assert hu[:, 0, : len(padding) + 1].tolist() == [[-1024] * len(padding) + [-949]] * 3
