import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_prep.errors import ScanError
from data_prep.readers.nifti import read_nifti
from data_prep.volume import CTVolume
from tests.conftest import chest


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
    found = read_nifti(make_nifti(slices=3, side=64))
    np.testing.assert_array_equal(found.hu[:, 224:288, 224:288], chest(3))


@pytest.mark.parametrize("keep", [0, 10, 300, 0.5, 0.999])
def test_a_truncated_file_is_refused(make_nifti: Callable[..., Path], keep: float) -> None:
    path = make_nifti()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ScanError, match="no readable NIfTI file"):
        read_nifti(path)


def test_a_flipped_byte_inside_is_refused(make_nifti: Callable[..., Path]) -> None:
    path = make_nifti()
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 0xFF
    path.write_bytes(broken)
    with pytest.raises(ScanError, match="no readable NIfTI"):
        read_nifti(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_nifti(tmp_path / "absent.nii.gz")
    path = tmp_path / "text.nii.gz"
    path.write_bytes(gzip.compress(b"no image" * 100))
    with pytest.raises(ScanError, match="no readable NIfTI"):
        read_nifti(path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.int16), np.eye(4)), tmp_path / "four.nii.gz")
    with pytest.raises(ScanError, match="4 dimensions"):
        read_nifti(tmp_path / "four.nii.gz")
