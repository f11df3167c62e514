import gzip
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import ScanError
from data_prep.readers.nifti import open_nifti
from data_prep.volume import CTVolume
from tests.data_prep.orientations import ORIENTATIONS
from tests.scans import chest


@pytest.mark.slow
def test_the_sample_is_read_as_it_is_known(sample: CTVolume, sample_path: Path) -> None:
    assert sample.hu.shape == (133, 512, 512)
    assert sample.spacing == pytest.approx((2.5, 0.703125, 0.703125))
    assert (sample.hu.min(), sample.hu.max()) == (-1024, 3071)
    stored = np.asanyarray(nib.nifti1.Nifti1Image.from_filename(sample_path).dataobj)  # axes L, A, S
    expected = np.clip(stored[:, ::-1].transpose(2, 1, 0), -1024, None)
    np.testing.assert_array_equal(sample.hu, expected)
    lower, upper = sample.hu[:20].mean(), sample.hu[-20:].mean()
    assert lower > upper  # abdomen below, shoulders and air of the lungs' tops above


def test_a_toy_chest_comes_back_in_the_middle(make_nifti: Callable[..., Path]) -> None:
    volume = open_nifti(make_nifti(slices=3, side=64)).load()
    np.testing.assert_array_equal(volume.hu[:, 224:288, 224:288], chest(3))


@pytest.mark.parametrize("keep", [0, 10, 300, 0.5, 0.999])
def test_a_truncated_file_is_refused(make_nifti: Callable[..., Path], keep: float) -> None:
    path = make_nifti()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(ScanError, match="no readable NIfTI file"):
        open_nifti(path)


def test_a_flipped_byte_inside_is_refused(make_nifti: Callable[..., Path]) -> None:
    path = make_nifti()
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    path.write_bytes(broken)
    with pytest.raises(ScanError, match="no readable NIfTI"):
        open_nifti(path)


@pytest.mark.slow
@given(codes=st.sampled_from(ORIENTATIONS), kind=st.sampled_from(["<i2", ">i2", "<f4", "<u2", "<i4"]))
@settings(max_examples=30)
def test_every_orientation_and_number_type_gives_the_same_scan(codes: tuple[str, str, str], kind: str) -> None:
    hu = chest(3, 8)
    offset = 1024 if kind == "<u2" else 0
    image = nib.Nifti1Image((hu.transpose(2, 1, 0) + offset).astype(kind), np.diag([-0.7, -0.7, 2.5, 1.0]))
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    with TemporaryDirectory() as folder:
        turned = image.as_reoriented(turn)
        turned.header.set_slope_inter(1, -offset)
        nib.save(turned, Path(folder) / "a.nii")
        volume = open_nifti(Path(folder) / "a.nii").load()
    np.testing.assert_array_equal(volume.hu[:, 252:260, 252:260], hu)
    assert volume.spacing == pytest.approx((2.5, 0.7, 0.7))


def test_real_values_are_scaled_and_rounded(tmp_path: Path) -> None:
    stored = np.linspace(0, 4000, 4 * 8 * 8).reshape(8, 8, 4).astype(np.int16)
    image = nib.Nifti1Image(stored, np.diag([-0.7, -0.7, 2.5, 1.0]))
    image.header.set_slope_inter(0.5, -1024.25)
    nib.save(image, tmp_path / "a.nii.gz")
    hu = open_nifti(tmp_path / "a.nii.gz").load().hu[:, 252:260, 252:260]
    expected = np.clip(np.rint(stored * 0.5 - 1024.25), -1024, None).transpose(2, 1, 0)
    np.testing.assert_array_equal(hu, expected)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_nifti(tmp_path / "absent.nii.gz")
    path = tmp_path / "text.nii.gz"
    path.write_bytes(gzip.compress(b"no image" * 100))
    with pytest.raises(ScanError, match="no readable NIfTI"):
        open_nifti(path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "four.nii.gz")
    with pytest.raises(ScanError, match="4 dimensions"):
        open_nifti(tmp_path / "four.nii.gz")


@pytest.mark.parametrize(("datatype", "name"), [(128, "RGB"), (2304, "RGBA"), (32, "complex64"), (1792, "complex128")])
def test_voxels_that_are_no_real_numbers_are_refused(datatype: int, name: str, make_nifti: Callable[..., Path]) -> None:
    path = unpacked(make_nifti())
    change_header(path, 70, datatype.to_bytes(2, "little"))
    with pytest.raises(ScanError, match=rf"^datatype is {datatype} \({name}\), wanted one of whole or real numbers$"):
        open_nifti(path)


def unpacked(path: Path) -> Path:
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()) + bytes(1 << 20))
    return path.with_suffix("")


def change_header(path: Path, start: int, field: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[start : start + len(field)] = field
    path.write_bytes(content)


@pytest.mark.parametrize("datatype", [0, 1, 255, 3000])
def test_an_unknown_kind_of_voxels_is_refused_in_silence(
    datatype: int, make_nifti: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    path = unpacked(make_nifti())
    change_header(path, 70, datatype.to_bytes(2, "little"))
    with pytest.raises(ScanError, match="no readable NIfTI file"):
        open_nifti(path)
    assert capfd.readouterr() == ("", "")


def test_voxels_inside_the_header_are_refused(make_nifti: Callable[..., Path]) -> None:
    path = unpacked(make_nifti())
    change_header(path, 108, bytes(4))
    with pytest.raises(ScanError, match=r"^vox_offset is 0, wanted at least 352$"):
        open_nifti(path)


@pytest.mark.parametrize("scaling", [(0, 5), (np.nan, 0), (1, 0), (2, -1000), (-1, 24)])
def test_voxels_are_scaled_where_a_slope_says_so(scaling: tuple[float, float], make_nifti: Callable[..., Path]) -> None:
    """As nifti1.h has it: not by a slope of 0, whatever the intercept."""
    path = unpacked(make_nifti(slices=4))
    stored, (slope, intercept) = open_nifti(path).planes(0, 4), scaling
    change_header(path, 112, np.array(scaling, "<f4").tobytes())
    expected = stored * slope + intercept if slope and np.isfinite(slope) else stored
    np.testing.assert_array_equal(open_nifti(path).planes(0, 4), expected)


@pytest.mark.parametrize("scaling", [(2, np.nan), (2, np.inf), (np.inf, 0), (-np.inf, -1024)])
def test_scaling_that_is_no_number_is_refused(scaling: tuple[float, float], make_nifti: Callable[..., Path]) -> None:
    path, (slope, intercept) = unpacked(make_nifti()), scaling
    change_header(path, 112, np.array(scaling, "<f4").tobytes())
    with pytest.raises(ScanError, match=f"^scl_slope is {slope:g} and scl_inter {intercept:g}, wanted finite numbers$"):
        open_nifti(path)


def test_damaged_sizes_take_no_memory(make_nifti: Callable[..., Path]) -> None:
    path = unpacked(make_nifti())
    change_header(path, 42, np.full(3, 32767, "<i2").tobytes())  # more voxels than any machine holds
    with pytest.raises(ScanError, match=r"^the scan's length is 81917\.5 mm"):
        open_nifti(path)


def test_one_file_with_the_magic_of_a_pair_equals_simpleitk(make_nifti: Callable[..., Path]) -> None:
    path = unpacked(make_nifti(slices=4))
    change_header(path, 344, b"ni1\0")
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    np.testing.assert_array_equal(open_nifti(path).planes(0, 4), SimpleITK.GetArrayFromImage(image))


def test_packed_bytes_in_several_parts_or_with_zeros_behind_are_read(make_nifti: Callable[..., Path]) -> None:
    path = make_nifti()
    packed, expected = path.read_bytes(), open_nifti(path).load().hu
    content = gzip.decompress(packed)
    for variant in (packed + bytes(64), gzip.compress(content[:3000]) + gzip.compress(content[3000:])):
        path.write_bytes(variant)
        np.testing.assert_array_equal(open_nifti(path).load().hu, expected)
    for variant in (packed + b"garbage", gzip.compress(packed)):
        path.write_bytes(variant)
        with pytest.raises(ScanError, match="no readable NIfTI file"):
            open_nifti(path)
