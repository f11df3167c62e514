"""Write canonical slices as NIfTI."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from data_prep.files import Declare, declare_nothing, replacing
from data_prep.readers.nifti_geometry import do_agree

_HEADER_BYTES = 352
_GZIP_LEVEL = 1  # the fastest; higher levels hardly make HU smaller


class NiftiWriter:
    """Appends slices (HU), from the feet to the head, to an open file."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file

    def write(self, hu: NDArray[np.int16]) -> None:
        """Append the next slice, (rows, columns); x runs fastest in the file, as in memory."""
        self._file.write(np.ascontiguousarray(hu, "<i2").tobytes())


@contextmanager
def writing_nifti(
    path: Path, shape: tuple[int, int, int], affine: NDArray[np.float64], declare: Declare = declare_nothing
) -> Iterator[NiftiWriter]:
    """Give a writer of ``path`` (.nii.gz); the file appears when the block ends without an error.

    ``declare`` is called with the complete file before. ``shape``: (slices, rows, columns); ``affine``: (x, y, z)
    indices to RAS+ mm.
    """
    header = nib.nifti1.Nifti1Header(endianness="<")
    header.set_data_shape(shape[::-1])
    header.set_data_dtype(np.int16)
    header.set_xyzt_units("mm")
    header.set_sform(affine, "scanner")
    header.set_qform(affine, "scanner")
    if not do_agree(affine, header.get_qform(), shape[::-1]):
        header["qform_code"] = 0  # it knows right angles alone, and would put the voxels to another place
    header["vox_offset"], header["magic"] = _HEADER_BYTES, b"n+1"
    with (
        replacing(path, declare) as temporary,
        temporary.open("wb") as plain,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, plain, mtime=0) as file,
    ):
        file.write(header.binaryblock.ljust(_HEADER_BYTES, b"\0"))
        yield NiftiWriter(file)
