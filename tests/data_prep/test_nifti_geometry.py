"""Headers of NIfTI files that contradict themselves are refused; lengths in other units equal SimpleITK's."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from data_prep.errors import ScanError
from data_prep.readers.nifti import open_nifti
from tests.scans import chest

AFFINE = np.diag([-0.7, -0.7, 2.5, 1.0])
TURNED = np.array([[1, -0.01, 0, 0], [0.01, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE
"""About the first voxel; of 64 x 64 the last one moves by 0.9 voxels."""


def write(path: Path, qform: Any = AFFINE, sform: Any = None, units: str = "mm", **fields: Any) -> Path:
    image = nib.Nifti1Image(chest(4).transpose(2, 1, 0), qform)
    image.set_qform(qform, 1)
    image.set_sform(qform if sform is None else sform, 1)
    image.header.set_xyzt_units(units)
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    return path


@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_lengths_are_converted_to_mm_as_simpleitk_does(units: str, factor: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", np.diag([factor, factor, factor, 1]) @ AFFINE, units=units)
    image = SimpleITK.ReadImage(str(path))
    scan = open_nifti(path)
    assert scan.spacing == pytest.approx(image.GetSpacing()[::-1], rel=1e-5)
    assert scan.spacing == pytest.approx((2.5, 0.7, 0.7), rel=1e-5)
    np.testing.assert_array_equal(scan.planes(0, 4), SimpleITK.GetArrayFromImage(image))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sform": np.diag([-0.7, -0.7, 3.2, 1])}, "sform says 3.2 mm, pixdim 2.5 mm"),
        ({"sform": np.diag([-0.7, -0.7, 2.0, 1])}, "sform says 2 mm, pixdim 2.5 mm"),
        ({"sform": TURNED}, "sform and qform disagree"),
        ({"sform": np.eye(4)}, "sform says 1 mm, pixdim 0.7 mm"),
        ({"sform": np.diag([0.7, -0.7, 2.5, 1])}, "sform and qform disagree"),
        ({"sform": AFFINE + np.outer([50, 0, 0, 0], [0, 0, 0, 1])}, "sform and qform disagree"),
        ({"sform": AFFINE + np.outer([0.36, 0, 0, 0], [0, 0, 0, 1])}, "sform and qform disagree"),
        ({"sform": AFFINE * [1, 1, 1, np.nan]}, "sform holds NaN or infinity"),
        ({"qform": np.diag([-0.7, -0.7, 60, 1])}, r"the distance of slices by .* is 60 mm, for a CT between 0\.05 and"),
        ({"qform": np.diag([-0.0007, -0.0007, 0.0025, 1])}, "0.0007 mm, for a CT"),
        ({"qform": np.diag([-700, -700, 2500, 1])}, "700 mm, for a CT"),
        ({"intent_code": 1002}, "intent_code is 1002, wanted 0"),
        ({"xyzt_units": 5}, "xyzt_units has the unit 5"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(fields: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=reason):
        open_nifti(write(tmp_path / "a.nii", **fields))


def test_of_forms_that_differ_by_less_than_half_a_voxel_the_sform_counts(tmp_path: Path) -> None:
    sform = AFFINE + np.outer([0.34, 0, 0, 0], [0, 0, 0, 1])
    affine = open_nifti(write(tmp_path / "a.nii", sform=sform)).affine
    assert affine is not None
    np.testing.assert_allclose(affine, sform, atol=1e-6)


def test_an_unknown_orientation_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(content)
    with pytest.raises(ScanError, match="sform_code and qform_code are 0"):
        open_nifti(path)


def put(path: Path, start: int, *numbers: float) -> None:
    """Write numbers of four bytes into a file's header."""
    content = bytearray(path.read_bytes())
    content[start : start + 4 * len(numbers)] = np.array(numbers, "<f4").tobytes()
    path.write_bytes(content)


@pytest.mark.parametrize("qfac", [-1, 0, 1])
@pytest.mark.parametrize("quaternion", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0.002)])
def test_a_qform_of_each_handedness_equals_simpleitk(
    qfac: float, quaternion: tuple[float, float, float], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.nii")
    put(path, 76, qfac)  # pixdim[0]
    put(path, 256, *quaternion, 10, -20, 30)  # and the offset
    content = bytearray(path.read_bytes())
    content[254:256] = bytes(2)  # no sform
    path.write_bytes(content)
    scan = open_nifti(path)
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    np.testing.assert_array_equal(scan.planes(0, 4), SimpleITK.GetArrayFromImage(image))
    assert scan.affine is not None
    origin = np.array(image.GetOrigin()) * [-1, -1, 1]
    np.testing.assert_allclose(scan.affine[:3, 3], origin, atol=1e-4)
    direction = np.diag([-1, -1, 1]) @ np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
    np.testing.assert_allclose(scan.affine[:3, :3], direction, atol=1e-4)


@pytest.mark.parametrize("codes", [bytes([1, 0, 1, 0]), bytes([1, 0, 0, 0]), bytes([0, 0, 1, 0])])
@pytest.mark.parametrize(
    ("start", "number", "reason"),
    [
        (88, 0.0, r"pixdim\[3\] is 0, wanted a length above 0"),
        (80, -0.7, r"pixdim\[1\] is -0\.7, wanted a length above 0"),
        (88, np.nan, r"pixdim\[3\] is nan, wanted a length above 0"),
        (84, np.inf, r"pixdim\[2\] is inf, wanted a length above 0"),
        (76, -2.0, r"pixdim\[0\] is -2, wanted 1 or -1"),
    ],
)
def test_a_length_that_is_none_is_refused_as_it_stands(
    start: int, number: float, reason: str, codes: bytes, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.nii")
    put(path, start, number)
    content = bytearray(path.read_bytes())
    content[252:256] = codes
    path.write_bytes(content)
    with pytest.raises(ScanError, match=reason):
        open_nifti(path)


@pytest.mark.parametrize(("start", "name"), [(252, "qform_code"), (254, "sform_code")])
def test_a_code_that_no_form_has_is_refused(start: int, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[start : start + 2] = (9).to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(ScanError, match=f"{name} is 9, wanted 0 to 5"):
        open_nifti(path)


def test_an_image_of_two_dimensions_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((8, 8), np.int16), np.eye(4)), path)
    put(path, 88, 0.0)
    with pytest.raises(ScanError, match="has 2 dimensions, wanted 3"):
        open_nifti(path)
